"""Corrupted CIFAR-10, type 0 of Nam et al. (NeurIPS 2020) as used by DisEnt and DCWP.

The bias attribute is one of ten corruptions at the highest severity; the aligned corruption of a
class has the number of the class.

Departures: the authors redrew the split for every ratio and did not publish it. Here the 45,000
training and 5,000 validation images are the same for all ratios, chosen by the data seed, and a
corrupted image depends only on the seed, its source image and the corruption.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.datasets import sources
from harness.datasets.bias import assign, uniform_over_others
from harness.datasets.corruptions import Corruption, type_zero
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.training_set import Transform

TRAIN = 45_000
COLUMN = 5
NUM_CORRUPTIONS = 10

# Second word of every seed. The last two are followed by an image and a corruption; numpy fills up
# short seeds with zeros, so that they must not be equal to one of the others.
(
    _SPLIT,
    _TRAIN,
    _VALID_BIASED,
    _VALID_UNBIASED,
    _TEST,
    _TRAIN_IMAGE,
    _TEST_IMAGE,
) = range(7)
_BATCH = 500


def corrupt(
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    attributes: NDArray[np.int64],
    corruptions: Sequence[Corruption],
    seed: tuple[int, int],
    report: Callable[[int], None] = lambda done: None,
) -> NDArray[np.uint8]:
    """Corrupts images, each with randomness of its own, so that any subset comes out the same.

    Args:
        images: All images of the source, (M, 3, 32, 32).
        ids: (N,) the images to corrupt.
        attributes: (N,) the corruption of each.
        corruptions: The corruptions, by attribute.
        seed: The data seed, and a number of the source.
        report: Told how many are done.

    Returns:
        (N, 3, 32, 32) uint8.
    """
    corrupted = np.empty((len(ids), *images.shape[1:]), np.uint8)
    done = 0
    for attribute, corruption in enumerate(corruptions):
        members = np.flatnonzero(attributes == attribute)
        for start in range(0, len(members), _BATCH):
            batch = members[start : start + _BATCH]
            rngs = [np.random.default_rng((*seed, int(ids[n]), attribute)) for n in batch]
            channels_last = np.ascontiguousarray(images[ids[batch]].transpose(0, 2, 3, 1))
            corrupted[batch] = corruption(channels_last, COLUMN, rngs).transpose(0, 3, 1, 2)
            done += len(batch)
            report(done)
    return corrupted


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Corrupts CIFAR-10 so that `ratio` percent of the training images conflict."""
    raw = sources.cifar10(root, progress)
    corruptions = type_zero(sources.frost_photos(root, progress))

    def rng(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, stream))

    order = rng(_SPLIT).permutation(len(raw.train_labels))
    train, valid, test = order[:TRAIN], order[TRAIN:], np.arange(len(raw.test_labels))

    def biased(ids: NDArray[np.int64], stream: int) -> NDArray[np.int64]:
        redraw = uniform_over_others(NUM_CORRUPTIONS)
        return assign(raw.train_labels[ids], ratio, redraw, rng(stream))

    def uniform(ids: NDArray[np.int64], stream: int) -> NDArray[np.int64]:
        return rng(stream).integers(NUM_CORRUPTIONS, size=len(ids))

    total = len(train) + 2 * len(valid) + len(test)
    finished = 0

    def split(
        ids: NDArray[np.int64], attributes: NDArray[np.int64], from_test: bool = False
    ) -> SplitArrays:
        nonlocal finished
        before = finished
        images, labels, source = (
            (raw.test_images, raw.test_labels, _TEST_IMAGE)
            if from_test
            else (raw.train_images, raw.train_labels, _TRAIN_IMAGE)
        )
        corrupted = corrupt(
            images,
            ids,
            attributes,
            corruptions,
            (seed, source),
            lambda done: progress("corrupting CIFAR-10", before + done, total),
        )
        finished += len(ids)
        return SplitArrays(corrupted, labels[ids], attributes, ids)

    return {
        "train": split(train, biased(train, _TRAIN)),
        "valid_biased": split(valid, biased(valid, _VALID_BIASED)),
        "valid_unbiased": split(valid, uniform(valid, _VALID_UNBIASED)),
        "test": split(test, uniform(test, _TEST), from_test=True),
    }


RECIPE = Recipe(
    name="cifar10c",
    summary="Corrupted CIFAR-10 type 0 (DisEnt, DCWP): objects biased by ten corruptions, 32x32.",
    num_classes=10,
    num_attributes=NUM_CORRUPTIONS,
    image_shape=(3, 32, 32),
    ratios=(0.5, 1.0, 2.0, 5.0),
    transform=Transform(
        crop_padding=4, flip=True, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    ),
    backbones={"paper": ("resnet18", "imagenet"), "quick": ("cnn", "none")},
    sources=f"{sources.CIFAR10.describe()}. {sources.FROST.describe()}",
    version=1,
    build=build,
    raw_files=sources.CIFAR10.checksums() | sources.FROST.checksums(),
)
