"""BFFHQ: faces of FFHQ whose age goes with their gender (Kim et al., ICCV 2021), 128x128.

Young women and old men are bias-aligned; young men and old women conflict. Label (age) and
attribute (gender) are read from the file names, as in DisEnt (Lee et al., NeurIPS 2021). Conflict
ratio 0.5 percent is DisEnt's; BiasEnsemble (Lee et al., AAAI 2023) added 1, 2 and 5.

The test split is used whole; published numbers are those of its bias-conflicting half alone.

Departures: DCWP ignores the official validation split. How much bias that one has is not published;
the harness makes its two validation splits out of it, whatever it is.
"""

from pathlib import Path

import numpy as np

from harness.datasets.decoding import ImageFiles
from harness.datasets.published import (
    BACKBONES,
    CIFAR_MEAN,
    CIFAR_STD,
    PublishedTree,
    cell_of,
    images_in,
    to_split,
)
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.datasets.validation import validation_splits
from harness.training_set import Transform

SIDE = 128
TREE = PublishedTree(
    title="BFFHQ",
    origin="the Google Drive folder of github.com/kakaoenterprise/Learning-Debiased-Disentangled "
    "(ratios 1, 2 and 5: of github.com/kakaoenterprise/BiasEnsemble)",
    folder="bffhq",
    layout="0.5pct/{align,conflict}/CLASS/ID_LABEL_ATTRIBUTE.png (or 1pct, 2pct, 5pct), valid/ and "
    "test/",
)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Reads the training images of one ratio, and the validation and test images of all."""
    align, conflict = f"{ratio:g}pct/align", f"{ratio:g}pct/conflict"
    tree = TREE.at(root, align, conflict, "valid", "test")
    in_folders = [*images_in(tree / align, "*/*"), *images_in(tree / conflict, "*/*")]
    for path in in_folders:
        _check_folders(path)
    train = _split(in_folders)
    valid, test = (_split(images_in(tree / name, "*", "*/*")) for name in ("valid", "test"))
    made = validation_splits(valid, train, np.random.default_rng(seed))
    return {"train": train, **made, "test": test}


def _split(paths: list[Path]) -> SplitArrays:
    images = ImageFiles(tuple(paths), (SIDE, SIDE))
    return to_split(images, [cell_of(path) for path in paths], 2, 2)


def _check_folders(path: Path) -> None:
    """Refuses a training image that lies where its name says it should not."""
    label, attribute = cell_of(path)
    side, folder = path.parts[-3:-1]
    if (side == "align") != (label == attribute) or (folder.isdigit() and int(folder) != label):
        raise ValueError(
            f"{path}: label {label} and attribute {attribute} in the name contradict the folders"
        )


RECIPE = Recipe(
    name="bffhq",
    summary="BFFHQ (DisEnt, DCWP): age of faces biased by gender, photos, 128x128.",
    num_classes=2,
    num_attributes=2,
    image_shape=(3, SIDE, SIDE),
    ratios=(0.5, 1.0, 2.0, 5.0),
    transform=Transform(flip=True, mean=CIFAR_MEAN, std=CIFAR_STD),
    backbones=BACKBONES,
    sources=TREE.describe(),
    version=1,
    build=build,
    open_ratio=False,
    unbiased="group_mean_accuracy",
    primary="conflicting_accuracy",
)
