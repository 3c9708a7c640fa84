"""Photo data sets as their authors publish them: where a copy lies and what its file names say.

These data sets are not downloaded: people get them from their authors, often after a form, and put
the unpacked folders under the data folder.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from harness.datasets.decoding import ImageFiles
from harness.datasets.recipe import SplitArrays

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONES = {"paper": ("resnet18", "imagenet"), "quick": ("cnn", "none")}

Counts = Mapping[tuple[int, int], int]  # images by (label, attribute)

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_LABEL_AND_ATTRIBUTE = re.compile(r"_(\d+)_(\d+)$")


@dataclass(frozen=True)
class PublishedTree:
    """A published folder: what it is, who has it, where under raw/ it goes and what is in it."""

    title: str
    origin: str
    folder: str
    layout: str

    def describe(self) -> str:
        """Returns where the raw files come from and go, as text."""
        return f"{self.title}, by hand from {self.origin} into raw/{self.folder}: {self.layout}"

    def at(self, root: Path, *needed: str) -> Path:
        """Returns the folder, in which the files and folders `needed` are.

        Raises:
            ValueError: Some are not; says where to get them and what the folder must hold.
        """
        folder = root / "raw" / self.folder
        missing = [name for name in needed if not (folder / name).exists()]
        if missing:
            raise ValueError(
                f"{folder} lacks {', '.join(missing)}. Get {self.title} from {self.origin} and "
                f"unpack it so that this folder holds {self.layout}."
            )
        return folder


def images_in(folder: Path, *patterns: str) -> list[Path]:
    """Returns the JPEG and PNG files that match any of the patterns, sorted by path.

    Raises:
        ValueError: There are none.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    images = [
        path
        for path in sorted(found)
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise ValueError(f"{folder} holds no .jpg or .png file at {' or '.join(patterns)}")
    return images


def within(folder: Path, name: str) -> Path:
    """The file of a published table's row.

    Raises:
        ValueError: The name leads out of the folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} is no file in {folder}")
    return folder / path


def cell_of(path: Path) -> tuple[int, int]:
    """Reads label and attribute from a name that ends in _{label}_{attribute}.

    Raises:
        ValueError: It does not.
    """
    match = _LABEL_AND_ATTRIBUTE.search(path.stem)
    if match is None:
        raise ValueError(f"{path}: the name does not end in _LABEL_ATTRIBUTE")
    return int(match[1]), int(match[2])


def to_split(
    images: ImageFiles, cells: Sequence[tuple[int, int]], num_classes: int, num_attributes: int
) -> SplitArrays:
    """Returns a split of images with these labels and attributes, numbered in order.

    Raises:
        ValueError: A label or attribute is out of range; names the image.
    """
    for path, (label, attribute) in zip(images.paths, cells, strict=True):
        if not (0 <= label < num_classes and 0 <= attribute < num_attributes):
            raise ValueError(
                f"{path}: the label must be below {num_classes} and the attribute below "
                f"{num_attributes}, but they are {label} and {attribute}"
            )
    labels, attributes = np.array(cells, dtype=np.int64).T
    return SplitArrays(images, labels, attributes, np.arange(len(cells)))


def official_splits(
    title: str, images: SplitArrays, parts: Sequence[int], published: Sequence[Counts]
) -> tuple[SplitArrays, SplitArrays, SplitArrays]:
    """Takes train (part 0), valid (1) and test (2) out of all images.

    Raises:
        ValueError: There are as many images as published, but not in each cell of each part.
    """
    splits = [images.take(np.flatnonzero(np.array(parts) == part)) for part in range(3)]
    complete = len(parts) == sum(sum(counts.values()) for counts in published)
    for name, split, counts in zip(("train", "valid", "test"), splits, published, strict=True):
        for (label, attribute), count in counts.items():
            found = int(((split.labels == label) & (split.attributes == attribute)).sum())
            if complete and found != count:
                raise ValueError(
                    f"{title}: {found} {name} images have label {label} and attribute "
                    f"{attribute}, but {count} were published; its table was altered"
                )
    return splits[0], splits[1], splits[2]


def md5_of(folder: Path, *names: str) -> dict[str, str]:
    """Returns the md5 of files by folder name and file name."""
    digests = {}
    for name in names:
        with (folder / name).open("rb") as file:
            digests[f"{folder.name}/{name}"] = hashlib.file_digest(file, "md5").hexdigest()
    return digests
