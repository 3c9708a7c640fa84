"""CelebA: blond hair biased by gender (Liu et al., ICCV 2015), stored at 178x218.

The label is Blond_Hair, the attribute Male. Most of the training images are women with blond hair
or men without, which makes the cells (0, 1) and (1, 0) the bias-aligned ones: here a conflicting
image is one whose label *equals* its attribute.

Of the women without blond hair 2,000 are drawn and the others left out, in training alone (Hong and
Yang, NeurIPS 2021, and early DCWP). That leaves 93,141 images, of which 3.64 percent conflict.

Departures: DCWP reads a list of the chosen images that cannot be had; here the data seed chooses.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.datasets.decoding import ImageFiles
from harness.datasets.published import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PublishedTree,
    md5_of,
    official_splits,
    to_split,
    within,
)
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.datasets.validation import validation_splits
from harness.training_set import PhotoTransform

SIZE = (218, 178)
CROP = 224
KEPT = 2000  # training images of women without blond hair
PUBLISHED = (  # of train, valid and test, by (blond, male)
    {(0, 0): 71_629, (0, 1): 66_874, (1, 0): 22_880, (1, 1): 1_387},
    {(0, 0): 8_535, (0, 1): 8_276, (1, 0): 2_874, (1, 1): 182},
    {(0, 0): 9_767, (0, 1): 7_535, (1, 0): 2_480, (1, 1): 180},
)
ATTRIBUTES, PARTITION, IMAGES = (
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "img_align_celeba",
)
TREE = PublishedTree(
    title="CelebA (aligned and cropped images)",
    origin="mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    folder="celeba",
    layout=f"{IMAGES}/000001.jpg and so on, {ATTRIBUTES} and {PARTITION}",
)


class Face(NamedTuple):
    """A row of the two tables."""

    name: str
    blond: int
    male: int
    part: int  # 0 train, 1 valid, 2 test


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Reads the official partition and drops most women without blond hair from training."""
    tree = TREE.at(root, IMAGES, ATTRIBUTES, PARTITION)
    faces = list(_faces(tree / ATTRIBUTES, tree / PARTITION))
    whole = to_split(
        ImageFiles(tuple(within(tree / IMAGES, face.name) for face in faces), SIZE, "exact"),
        [(face.blond, face.male) for face in faces],
        2,
        2,
    )
    parts = [face.part for face in faces]
    everybody, valid, test = official_splits("CelebA", whole, parts, PUBLISHED)
    rng = np.random.default_rng(seed)
    train = subsampled(everybody, rng)
    return {"train": train, **validation_splits(valid, train, rng), "test": test}


def subsampled(train: SplitArrays, rng: np.random.Generator) -> SplitArrays:
    """Keeps `KEPT` random women without blond hair and everybody else, in order."""
    kept = (train.labels == 1) | (train.attributes == 1)
    others = np.flatnonzero(~kept)
    kept[rng.permutation(others)[:KEPT]] = True
    return train.take(np.flatnonzero(kept))


def _faces(attributes: Path, partition: Path) -> list[Face]:
    try:
        return list(_rows(attributes.read_text(), partition.read_text()))
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"{attributes} and {partition} are not as published, or not whole: {error}"
        ) from None


def _rows(attributes: str, partition: str) -> Iterator[Face]:
    """Reads both tables side by side; the first one begins with a count and the column names."""
    count, header, *rows = attributes.splitlines()
    parts = partition.splitlines()
    if not int(count) == len(rows) == len(parts):
        raise ValueError(f"{count.strip()} images announced, {len(rows)} and {len(parts)} listed")
    blond, male = (1 + header.split().index(name) for name in ("Blond_Hair", "Male"))
    bits = {"-1": 0, "1": 1}
    for row, part in zip(rows, parts, strict=True):
        fields, (name, digit) = row.split(), part.split()
        if fields[0] != name or digit not in ("0", "1", "2"):
            raise ValueError(f"{fields[0]} in one stands beside {part!r} in the other")
        yield Face(name, bits[fields[blond]], bits[fields[male]], int(digit))


def _provenance(root: Path) -> Mapping[str, str]:
    return md5_of(TREE.at(root), ATTRIBUTES, PARTITION)


RECIPE = Recipe(
    name="celeba",
    summary="CelebA (DCWP): blond hair biased by gender, photos, 224x224.",
    num_classes=2,
    num_attributes=2,
    image_shape=(3, CROP, CROP),
    ratios=(3.64,),
    transform=PhotoTransform(
        size=CROP,
        resize=256,
        scale=(0.7, 1.0),
        ratio=(3 / 4, 4 / 3),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    backbones=BACKBONES,
    sources=TREE.describe(),
    version=1,
    build=build,
    provenance=_provenance,
    aligned=((False, True), (True, False)),
    open_ratio=False,
    unbiased="group_mean_accuracy",
    primary="group_mean_accuracy",
)
