"""BAR: actions biased by the place they are done in (Nam et al., NeurIPS 2020), 224x224.

Two versions. `bar` is the original one: every training image is bias-aligned and every test image
conflicts. `bar_be` is that of BiasEnsemble (Lee et al., AAAI 2023), whose training split holds 1 or
5 percent of conflicting images.

Nobody annotated the places. The attribute stands in for them: it is the label of an aligned image
and the next label of a conflicting one. A group table tells these two apart and no more, and no
validation split can be called unbiased.

As in early code of DCWP, `bar` has Resize(256), CenterCrop(224) for training images and
Resize((224, 224)) for others; `bar_be` has the latter for all, as BiasEnsemble.

Departures: The original has no validation split; a random tenth of the training images is held out.
That of BiasEnsemble is used whole, however biased it is.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from harness.datasets.decoding import ImageFiles
from harness.datasets.published import (
    BACKBONES,
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PublishedTree,
    cell_of,
    images_in,
    to_split,
)
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.training_set import Transform

ACTIONS = ("climbing", "diving", "fishing", "pole vaulting", "racing", "throwing")
SIDE = 224
MARGIN = 16  # Resize(256), CenterCrop(224)
TREE = PublishedTree(
    title="BAR",
    origin="github.com/alinlab/BAR",
    folder="bar",
    layout="train/ACTION_NUMBER.jpg and test/ACTION_NUMBER.jpg",
)
TREE_BE = PublishedTree(
    title="BAR in the version of BiasEnsemble",
    origin="the Google Drive folder of github.com/kakaoenterprise/BiasEnsemble",
    folder="bar_be",
    layout="train/align/CLASS/NAME_LABEL_ATTRIBUTE.jpg, train/conflict/{1pct,5pct}/CLASS/…, "
    "valid/CLASS/… and test/CLASS/…",
)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Reads the original version, of which `ratio` is 0."""
    tree = TREE.at(root, "train", "test")
    train, test = images_in(tree / "train", "*"), images_in(tree / "test", "*")
    aligned = [_cell(_action(path), conflicts=False) for path in train]
    conflicting = [_cell(_action(path), conflicts=True) for path in test]
    held_out, rest = np.split(
        np.random.default_rng(seed).permutation(len(train)), [round(len(train) / 10)]
    )
    return {
        "train": _split(train, aligned, "centre", MARGIN).take(np.sort(rest)),
        "valid_biased": _split(train, aligned).take(np.sort(held_out)),
        "test": _split(test, conflicting),
    }


def build_be(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Reads BiasEnsemble's version; in training the folder says which images conflict."""
    conflict = f"train/conflict/{ratio:g}pct"
    tree = TREE_BE.at(root, "train/align", conflict, "valid", "test")
    aligned = images_in(tree / "train/align", "*/*")
    conflicting = images_in(tree / conflict, "*/*")
    train = [_cell(cell_of(path)[0], conflicts=False) for path in aligned]
    train += [_cell(cell_of(path)[0], conflicts=True) for path in conflicting]

    def evaluation(name: str) -> SplitArrays:
        paths = images_in(tree / name, "*/*")
        cells = [cell_of(path) for path in paths]
        return _split(paths, [_cell(label, attribute != label) for label, attribute in cells])

    return {
        "train": _split(aligned + conflicting, train),
        "valid_biased": evaluation("valid"),
        "test": evaluation("test"),
    }


def _cell(label: int, conflicts: bool) -> tuple[int, int]:
    """Label and stand-in attribute."""
    return label, (label + 1) % len(ACTIONS) if conflicts else label


def _action(path: Path) -> int:
    action = path.stem.rpartition("_")[0]
    if action not in ACTIONS:
        raise ValueError(f"{path}: expected {', '.join(ACTIONS)}, but the name says {action!r}")
    return ACTIONS.index(action)


def _split(
    paths: list[Path],
    cells: list[tuple[int, int]],
    fit: Literal["resize", "centre"] = "resize",
    margin: int = 0,
) -> SplitArrays:
    images = ImageFiles(tuple(paths), (SIDE, SIDE), fit, margin)
    return to_split(images, cells, len(ACTIONS), len(ACTIONS))


RECIPE = Recipe(
    name="bar",
    summary="BAR (LfF): actions biased by place, test all conflicting, photos, 224x224.",
    num_classes=len(ACTIONS),
    num_attributes=len(ACTIONS),
    image_shape=(3, SIDE, SIDE),
    ratios=(0.0,),
    transform=Transform(flip=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    backbones=BACKBONES,
    sources=TREE.describe(),
    version=1,
    build=build,
    open_ratio=False,
    validation=("valid_biased",),
)

RECIPE_BE = replace(
    RECIPE,
    name="bar_be",
    summary="BAR (BiasEnsemble): actions biased by place, photos, 224x224.",
    ratios=(1.0, 5.0),
    transform=Transform(crop_padding=4, flip=True, mean=CIFAR_MEAN, std=CIFAR_STD),
    sources=TREE_BE.describe(),
    build=build_be,
)
