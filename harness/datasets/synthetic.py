"""Coloured shapes: a data set that needs no download and trains in seconds.

The label is one of four thin shapes at a random place in heavy noise, the bias attribute is one of
four saturated colours. A small network reads the colour at once and the shape only after some
epochs, which is the situation that debiasing methods are made for.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets.bias import assign, uniform_over_others
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.training_set import Transform

TRAIN, EVALUATION = 2000, 400
SIZE, SHAPE_SIZE = 16, 7
COLOURS = np.array([[255, 40, 40], [40, 255, 40], [60, 60, 255], [230, 230, 30]])

_STREAM_TRAIN, _STREAM_VALID, _STREAM_TEST = 0, 1, 2


def _shapes() -> NDArray[np.bool_]:
    """Diagonal, cross of the diagonals, upright cross, square: (4, 7, 7)."""
    row, col = np.mgrid[:SHAPE_SIZE, :SHAPE_SIZE]
    last = SHAPE_SIZE - 1
    diagonal = row == col
    edge = (row % last == 0) | (col % last == 0)
    upright = (row == last // 2) | (col == last // 2)
    return np.stack([diagonal, diagonal | (row + col == last), upright, edge])


def _draw(
    labels: NDArray[np.int64], attributes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Paints one image per label, (N, 3, 16, 16)."""
    count = len(labels)
    ink = np.zeros((count, SIZE, SIZE))
    corners = rng.integers(SIZE - SHAPE_SIZE + 1, size=(count, 2))
    for image, shape, (top, left) in zip(ink, _shapes()[labels], corners, strict=True):
        image[top : top + SHAPE_SIZE, left : left + SHAPE_SIZE] = shape
    strength = rng.uniform(0.5, 1.0, size=(count, 1, 1, 1))
    noise = rng.normal(45, 30, size=(count, 3, SIZE, SIZE))
    paint = COLOURS[attributes][:, :, None, None]  # (N, 3, 1, 1)
    images: NDArray[np.float64] = noise + strength * ink[:, None] * paint
    return images.clip(0, 255).astype(np.uint8)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Paints the splits; the colour is all that depends on the ratio."""

    def split(count: int, stream: int, ratio: float | None) -> SplitArrays:
        labels = np.arange(count) % len(COLOURS)
        # Colours come from a stream of their own, so that shapes and noise are the same for all
        # ratios, and for the two validation splits.
        hue = np.random.default_rng((seed, stream, 0 if ratio is None else 1))
        if ratio is None:
            attributes = hue.integers(len(COLOURS), size=count)
        else:
            attributes = assign(labels, ratio, uniform_over_others(len(COLOURS)), hue)
        images = _draw(labels, attributes, np.random.default_rng((seed, stream, 2)))
        return SplitArrays(images, labels, attributes, np.arange(count))

    return {
        "train": split(TRAIN, _STREAM_TRAIN, ratio),
        "valid_biased": split(EVALUATION, _STREAM_VALID, ratio),
        "valid_unbiased": split(EVALUATION, _STREAM_VALID, None),
        "test": split(EVALUATION, _STREAM_TEST, None),
    }


RECIPE = Recipe(
    name="synthetic",
    summary="Noisy shapes biased by colour, 16x16; no download, for tests and first steps.",
    num_classes=len(COLOURS),
    num_attributes=len(COLOURS),
    image_shape=(3, SIZE, SIZE),
    ratios=(1.0, 5.0),
    transform=Transform(),
    backbones={"paper": ("cnn", "none"), "quick": ("cnn", "none")},
    sources="Painted from the data seed.",
    version=1,
    build=build,
)
