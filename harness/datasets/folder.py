"""Images of one's own in the folder layout of DisEnt (Lee et al., NeurIPS 2021), as `folder:PATH`.

Below PATH lie, for one conflict ratio or several::

    1pct/align/CLASS/ID_LABEL_ATTRIBUTE.png      training images: first these,
    1pct/conflict/CLASS/ID_LABEL_ATTRIBUTE.png   then these, each sorted by path
    1pct/valid/…                                 or valid/…, for all ratios
    1pct/valid_unbiased/…                        optional
    test/…
    dataset.json                                 optional, see `Card`

Labels and attributes are those in the file names; CLASS may have any name, or be left out. The
cells that align/ holds are bias-aligned. `valid` counts as biased like the training images; where
there is no `valid_unbiased`, the largest balanced part of `valid` is taken. All images are resized
to the size of the first training image.
"""

import functools
import glob
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.datasets.decoding import ImageFiles
from harness.datasets.export import CARD, Card, ratio_folder, read_card
from harness.datasets.published import BACKBONES
from harness.datasets.recipe import Family, Progress, Recipe, SplitArrays
from harness.datasets.validation import balanced
from harness.space import one_line

FEW = 10

_OF_A_RATIO = ("align", "conflict", "valid", "valid_unbiased")
_OF_ALL = ("valid", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)pct")
_NAME = re.compile(r"([^/]*)_(\d+)_(\d+)\.\w+")


def size_of(path: Path) -> tuple[int, int]:
    """Returns (H, W) of an image.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise whatever they stumble over
        raise ValueError(f"cannot read {path}: {one_line(error)}") from None


def balances(cells: Iterable[tuple[int, int]]) -> bool:
    """Whether an unbiased part of images with these (label, attribute) can be drawn."""
    cells = set(cells)
    return len(cells) > len({label for label, _ in cells})


def draw_unbiased(valid: SplitArrays, seed: int, source: Path) -> SplitArrays:
    """Returns the largest balanced part of a validation split; warns if that is a small one."""
    drawn = valid.take(balanced(valid.labels, valid.attributes, np.random.default_rng(seed)))
    each = len(drawn.labels) // len(set(zip(drawn.labels, drawn.attributes, strict=True)))
    if each < FEW:
        warnings.warn(
            f"{source}: valid_unbiased, drawn from valid, has {each} images per label and "
            f"attribute, fewer than {FEW}: add a valid_unbiased of your own",
            stacklevel=2,
        )
    return drawn


class _Named(NamedTuple):
    """An image file and what its name says."""

    path: str  # relative
    id: int | None
    label: int
    attribute: int

    @property
    def cell(self) -> tuple[int, int]:
        return self.label, self.attribute


@dataclass(frozen=True)
class _Tree:
    """The image files of a folder.

    Attributes:
        root: The folder.
        ratios: The conflict ratios there are, ascending.
        parts: The images of every part of the layout that is there, sorted by path.
        version: Digest of all paths and sizes in bytes.
    """

    root: Path
    ratios: tuple[float, ...]
    parts: Mapping[str, Sequence[_Named]]
    version: str

    def of(self, ratio: float, part: str) -> Sequence[_Named]:
        """The images of a part that each ratio has of its own; none if it is not there."""
        return self.parts.get(f"{ratio_folder(ratio)}/{part}", ())

    def train(self, ratio: float) -> Sequence[_Named]:
        """The training images of a ratio."""
        return [*self.of(ratio, "align"), *self.of(ratio, "conflict")]

    def valid(self, ratio: float) -> Sequence[_Named]:
        """The validation images of a ratio, or those of all."""
        return self.of(ratio, "valid") or self.parts.get("valid", ())

    def split(self, images: Sequence[_Named], size: tuple[int, int]) -> SplitArrays:
        """Images as the arrays to store."""
        ids = [number if each.id is None else each.id for number, each in enumerate(images)]
        return SplitArrays(
            ImageFiles(tuple(self.root / each.path for each in images), size),
            np.array([each.label for each in images], dtype=np.int64),
            np.array([each.attribute for each in images], dtype=np.int64),
            np.array(ids, dtype=np.int64),
        )


def _read(root: Path) -> _Tree:
    """Lists a folder. Recipes are looked up often, hence no Path per file.

    Raises:
        ValueError: The folder has another layout, or a file a name without label and attribute.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; folder:PATH reads the images below PATH")
    ratios = tuple(sorted(_ratios(root)))
    parts = {}
    listing = hashlib.sha256()
    for part in [*(f"{ratio_folder(r)}/{name}" for r in ratios for name in _OF_A_RATIO), *_OF_ALL]:
        if not (root / part).is_dir():
            continue
        paths = [
            path
            for depth in ("*", "*/*")
            for path in glob.glob(f"{part}/{depth}", root_dir=root)
            if path.lower().endswith(_SUFFIXES)
        ]
        paths.sort()
        for path in paths:
            listing.update(f"{path} {os.stat(f'{root}/{path}').st_size}\n".encode())
        parts[part] = [_parse(root, path) for path in paths]
    tree = _Tree(root, ratios, parts, listing.hexdigest()[:12])
    _check_layout(tree)
    return tree


def _ratios(root: Path) -> Iterator[float]:
    """The conflict ratios that folders are named after.

    Raises:
        ValueError: One is not in (0, 100], or not written as :func:`ratio_folder` does.
    """
    for name in glob.glob("*pct", root_dir=root):
        if match := _RATIO.fullmatch(name):
            ratio = float(match[1])
            if not 0 < ratio <= 100:
                raise ValueError(f"{root / name}: a conflict ratio must lie in (0, 100] percent")
            if name != ratio_folder(ratio):
                raise ValueError(f"{root / name}: rename it {ratio_folder(ratio)}")
            yield ratio


def _parse(root: Path, path: str) -> _Named:
    match = _NAME.fullmatch(path, path.rfind("/") + 1)
    if match is None:
        raise ValueError(f"{root / path}: the name does not end in _LABEL_ATTRIBUTE")
    first = match[1].partition("_")[0]
    number = int(first) if first.isdecimal() and len(first) <= 18 else None  # an int64
    return _Named(path, number, int(match[2]), int(match[3]))


def _check_layout(tree: _Tree) -> None:
    missing = [] if tree.ratios else ["a folder such as 1pct/"]
    for ratio in tree.ratios:
        folder = ratio_folder(ratio)
        sides = [f"{folder}/align", f"{folder}/conflict"]
        # Either may be empty, but both must be there: names are easily misspelt.
        missing += [f"{side}/" for side in sides if side not in tree.parts]
        missing += [] if tree.train(ratio) else [f"training images in {folder}/"]
        missing += [] if tree.valid(ratio) else [f"images in {folder}/valid/"]
    missing += [] if tree.parts.get("test") else ["images in test/"]
    if missing:
        raise ValueError(
            f"{tree.root} lacks {', '.join(missing)}. Expected: "
            "1pct/{align,conflict}/CLASS/ID_LABEL_ATTRIBUTE.png (where 1 is the conflict ratio in "
            "percent), 1pct/valid/… and test/…"
        )


def _aligned(tree: _Tree, card: Card) -> NDArray[np.bool_]:
    """The bias-aligned cells: as the card has them, or those of the images in align/.

    Raises:
        ValueError: A file name contradicts the table or the folder.
    """
    cells = {part: {each.cell for each in images} for part, images in tree.parts.items()}
    if card.aligned:
        aligned = np.array(card.aligned, dtype=np.bool_)
    else:
        labels, attributes = (set(each) for each in zip(*set().union(*cells.values()), strict=True))
        shape = _count(tree.root, "label", labels), _count(tree.root, "attribute", attributes)
        aligned = np.zeros(shape, np.bool_)
        for part in cells:
            for cell in cells[part] if part.endswith("/align") else ():
                aligned[cell] = True
    for part in tree.parts:
        for cell in sorted(cells[part]):
            fault = _fault(part, cell, aligned)
            if fault:
                path = next(each.path for each in tree.parts[part] if each.cell == cell)
                raise ValueError(
                    f"{tree.root / path}: label {cell[0]} and attribute {cell[1]} {fault}"
                )
    return aligned


def _fault(part: str, cell: tuple[int, int], aligned: NDArray[np.bool_]) -> str:
    if cell[0] >= aligned.shape[0] or cell[1] >= aligned.shape[1]:
        return "are not in the {}x{} aligned table of {}".format(*aligned.shape, CARD)
    side = part.rpartition("/")[2]
    if side in ("align", "conflict") and aligned[cell] != (side == "align"):
        return f"lie in {side}/, but are bias-{'aligned' if aligned[cell] else 'conflicting'}"
    return ""


def _count(root: Path, kind: str, values: set[int]) -> int:
    """How many labels or attributes there are, which must be 0, 1, 2 and so on."""
    absent = next(each for each in range(len(values) + 1) if each not in values)
    if absent < len(values):
        raise ValueError(
            f"{root}: file names have {kind}s up to {max(values)}, but none has {kind} {absent}: "
            "number them from 0 without gaps"
        )
    return len(values)


def _recipe(argument: str) -> Recipe:
    if not argument:
        raise ValueError("folder needs a path: folder:PATH")
    return recipe_of(Path(os.path.expanduser(argument)).resolve())


@functools.cache
def recipe_of(path: Path) -> Recipe:
    """The recipe of a folder as a process first finds it: every trial asks, and listing is slow."""
    tree, card = _read(path), read_card(path)
    aligned = _aligned(tree, card)
    size = size_of(path / tree.train(tree.ratios[0])[0].path)
    unbiased = all(
        tree.of(ratio, "valid_unbiased") or balances(each.cell for each in tree.valid(ratio))
        for ratio in tree.ratios
    )

    def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
        valid = tree.split(tree.valid(ratio), size)
        splits = {"train": tree.split(tree.train(ratio), size), "valid_biased": valid}
        if given := tree.of(ratio, "valid_unbiased"):
            splits["valid_unbiased"] = tree.split(given, size)
        elif unbiased:
            splits["valid_unbiased"] = draw_unbiased(valid, seed, path / ratio_folder(ratio))
        return splits | {"test": tree.split(tree.parts["test"], size)}

    return Recipe(
        name=f"folder:{path}",
        summary=f"Images in DisEnt's folder layout{card.name and f', of {card.name}'}.",
        num_classes=aligned.shape[0],
        num_attributes=aligned.shape[1],
        image_shape=card.transform.output_shape((3, *size)),
        ratios=tree.ratios,
        transform=card.transform,
        backbones={**BACKBONES, **card.backbones},
        sources=f"the images below {path}",
        version=tree.version,
        build=build,
        aligned=tuple(map(tuple, aligned.tolist())),
        open_ratio=False,
        validation=("valid_biased", "valid_unbiased") if unbiased else ("valid_biased",),
        unbiased=card.unbiased,
        primary=card.primary,
        like=card.like,
    )


FAMILY = Family(
    name="folder",
    summary="Images of your own in DisEnt's folder layout.",
    argument="the path of the folder",
    recipe=_recipe,
)
