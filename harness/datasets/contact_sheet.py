"""A picture that shows the bias of a data set: aligned samples beside conflicting ones."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from harness.training_set import GroupedSplit

SMALLEST, LARGEST = 40, 96  # length of a tile's longer side, in pixels
GAP = 2  # between tiles
BLOCK_GAP = 28
MARGIN = 12
HEADER = 30
LABELS = 52  # width of the row labels
TEXT = 16

_PAPER, _INK, _EMPTY = (255, 255, 255), (40, 40, 40), (240, 240, 240)


def contact_sheet(
    split: GroupedSplit, aligned: Tensor, per_side: int = 5, seed: int = 0
) -> Image.Image:
    """Draws a row per class: bias-aligned samples on the left, conflicting ones on the right.

    Small images are enlarged without smoothing, large ones reduced. Places for which a class has no
    sample stay grey.

    Args:
        split: The images to choose from.
        aligned: (num_classes, num_attributes) bool, the bias-aligned cells.
        per_side: Samples per class and side.
        seed: Of the choice of samples.
    """
    rng = np.random.default_rng(seed)
    is_aligned = aligned[split.labels, split.attributes]
    width, height = _tile_size(*split.images.shape[:1:-1])
    block = per_side * (width + GAP) - GAP
    lefts = (MARGIN + LABELS, MARGIN + LABELS + block + BLOCK_GAP)
    sheet = Image.new(
        "RGB",
        (lefts[1] + block + MARGIN, HEADER + len(aligned) * (height + GAP) - GAP + MARGIN),
        _PAPER,
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    centres = (MARGIN + LABELS / 2, *(left + block / 2 for left in lefts))
    for x, text in zip(centres, ("class", "bias-aligned", "bias-conflicting"), strict=True):
        draw.text((x, HEADER / 2), text, _INK, font, anchor="mm")
    for label in range(len(aligned)):
        top = HEADER + label * (height + GAP)
        draw.text((centres[0], top + height / 2), str(label), _INK, font, anchor="mm")
        for left, side in zip(lefts, (is_aligned, ~is_aligned), strict=True):
            members = ((split.labels == label) & side).nonzero().flatten().numpy()
            chosen = rng.permutation(members)[:per_side]
            for column in range(per_side):
                x = left + column * (width + GAP)
                if column < len(chosen):
                    sheet.paste(_tile(split.images[chosen[column]], (width, height)), (x, top))
                else:
                    draw.rectangle((x, top, x + width - 1, top + height - 1), _EMPTY)
    return sheet


def _tile_size(width: int, height: int) -> tuple[int, int]:
    """Width and height that images are shown at."""
    longer = max(width, height)
    if longer > LARGEST:
        return max(1, width * LARGEST // longer), max(1, height * LARGEST // longer)
    factor = math.ceil(SMALLEST / longer)
    return width * factor, height * factor


def _tile(image: Tensor, size: tuple[int, int]) -> Image.Image:
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
    enlarged = size[0] >= image.shape[2]
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize(size, how)
