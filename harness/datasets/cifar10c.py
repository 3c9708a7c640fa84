"""Corrupted CIFAR-10 of Nam et al. (NeurIPS 2020): objects biased by ten corruptions.

DisEnt and DCWP use type 0 at parameter column 5, the highest severity; LfF has a type 1 besides.
The aligned corruption of a class has the number of the class.

Departures: the authors redrew the split for every ratio and did not publish it. Here the 45,000
training and 5,000 validation images are the same for all ratios and both types, chosen by the data
seed. With `exact` the numbers of training images are the published ones, which differ by ratio: the
split is nested, and 4,938 images are left to validate on.

A corrupted image depends only on the seed, its source image, the corruption and the column. The
columns of a corruption share their random draws, so that they show the same flakes or the same
noise at another severity and differ by nothing else; the two types share none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.datasets import sources
from harness.datasets.bias import assign, uniform_over_others
from harness.datasets.corruptions import Corruption, type_zero
from harness.datasets.noise_and_blur import type_one
from harness.datasets.recipe import Family, Progress, Recipe, SplitArrays
from harness.training_set import Transform

TRAIN = 45_000
COLUMN = 5
NUM_CORRUPTIONS = 10


class Counts(NamedTuple):
    """Numbers of training images."""

    aligned: int
    conflicting: int


# Of type 0, by conflict ratio: supplement of DisEnt (Lee et al., NeurIPS 2021).
PUBLISHED = {
    0.5: Counts(44_832, 228),
    1.0: Counts(44_527, 442),
    2.0: Counts(44_145, 887),
    5.0: Counts(42_820, 2_242),
}

# Second word of every seed. Those from _IMAGES on are followed by an image and a corruption; numpy
# fills up short seeds with zeros, so that they must not be equal to one of the others.
_SPLIT, _TRAIN, _VALID_BIASED, _VALID_UNBIASED, _TEST, _IMAGES = range(6)
_BATCH = 500


def corrupt(
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    attributes: NDArray[np.int64],
    corruptions: Sequence[Corruption],
    column: int,
    seed: tuple[int, int],
    report: Callable[[int], None] = lambda done: None,
) -> NDArray[np.uint8]:
    """Corrupts images, each with randomness of its own, so that any subset comes out the same.

    Args:
        images: All images of the source, (M, 3, 32, 32).
        ids: (N,) the images to corrupt.
        attributes: (N,) the corruption of each.
        corruptions: The corruptions, by attribute.
        column: Parameter column of the corruptions, 1..5.
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
            corrupted[batch] = corruption(channels_last, column, rngs).transpose(0, 3, 1, 2)
            done += len(batch)
            report(done)
    return corrupted


class Type(NamedTuple):
    """Ten corruptions that make a bias attribute.

    Attributes:
        name: Name of the family of data sets.
        summary: One line for listings.
        argument: What may follow the name, in words.
        exact: Whether numbers of training images are published.
        version: Version of the arrays.
        raw: The raw files.
        corruptions: Makes the corruptions, by attribute.
        streams: Second word of the seeds of training and of test images.
    """

    name: str
    summary: str
    argument: str
    exact: bool
    version: int
    raw: tuple[sources.RawFiles, ...]
    corruptions: Callable[[Path, Progress], tuple[Corruption, ...]]
    streams: tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """One data set of a family.

    Args:
        type: The corruptions.
        column: Their parameter column, 1..5.
        exact: Whether the numbers of training images are the published ones.
    """

    type: Type
    column: int
    exact: bool

    @property
    def name(self) -> str:
        """What the user types; defaults are left out."""
        chosen = [str(self.column)] * (self.column != COLUMN) + ["exact"] * self.exact
        return ":".join([self.type.name, ",".join(chosen)]).removesuffix(":")

    def build(
        self, root: Path, ratio: float, seed: int, progress: Progress
    ) -> dict[str, SplitArrays]:
        """Corrupts CIFAR-10 so that `ratio` percent of the training images conflict."""
        raw = sources.cifar10(root, progress)
        corruptions = self.type.corruptions(root, progress)

        def rng(stream: int) -> np.random.Generator:
            return np.random.default_rng((seed, stream))

        order = rng(_SPLIT).permutation(len(raw.train_labels))
        conflicts, candidates, train_end, valid_start = None, TRAIN, TRAIN, TRAIN
        if self.exact:
            totals = [sum(counts) for counts in PUBLISHED.values()]
            # Every ratio has its conflicts among the images that all have, so that they nest.
            conflicts, candidates = PUBLISHED[ratio].conflicting, min(totals)
            train_end, valid_start = sum(PUBLISHED[ratio]), max(totals)
        train, valid = order[:train_end], order[valid_start:]
        test = np.arange(len(raw.test_labels))
        redraw = uniform_over_others(NUM_CORRUPTIONS)

        biased_train = raw.train_labels[train]
        biased_train[:candidates] = assign(
            biased_train[:candidates], ratio, redraw, rng(_TRAIN), conflicts
        )
        biased_valid = assign(raw.train_labels[valid], ratio, redraw, rng(_VALID_BIASED))

        def uniform(ids: NDArray[np.int64], stream: int) -> NDArray[np.int64]:
            return rng(stream).integers(NUM_CORRUPTIONS, size=len(ids))

        total = len(train) + 2 * len(valid) + len(test)
        finished = 0

        def split(
            ids: NDArray[np.int64], attributes: NDArray[np.int64], from_test: bool = False
        ) -> SplitArrays:
            nonlocal finished
            before = finished
            images, labels = (
                (raw.test_images, raw.test_labels)
                if from_test
                else (raw.train_images, raw.train_labels)
            )
            corrupted = corrupt(
                images,
                ids,
                attributes,
                corruptions,
                self.column,
                (seed, self.type.streams[from_test]),
                lambda done: progress("corrupting CIFAR-10", before + done, total),
            )
            finished += len(ids)
            return SplitArrays(corrupted, labels[ids], attributes, ids)

        return {
            "train": split(train, biased_train),
            "valid_biased": split(valid, biased_valid),
            "valid_unbiased": split(valid, uniform(valid, _VALID_UNBIASED)),
            "test": split(test, uniform(test, _TEST), from_test=True),
        }


def _family(type: Type) -> Family:
    def recipe(argument: str) -> Recipe:
        words = argument.split(",") if argument else []
        column = int(words.pop(0)) if words and words[0] in list("12345") else COLUMN
        exact = type.exact and words == ["exact"]
        if words and not exact:
            raise ValueError(f"{type.name} takes {type.argument}, but got {argument!r}.")
        variant = Variant(type, column, exact)
        return Recipe(
            name=variant.name,
            summary=type.summary,
            num_classes=10,
            num_attributes=NUM_CORRUPTIONS,
            image_shape=(3, 32, 32),
            ratios=tuple(PUBLISHED),
            transform=Transform(
                crop_padding=4,
                flip=True,
                mean=(0.4914, 0.4822, 0.4465),
                std=(0.2023, 0.1994, 0.2010),
            ),
            backbones={"paper": ("resnet18", "imagenet"), "quick": ("cnn", "none")},
            sources=". ".join(files.describe() for files in type.raw),
            version=type.version,
            build=variant.build,
            raw_files={path: md5 for files in type.raw for path, md5 in files.checksums().items()},
            open_ratio=not exact,
            like="" if variant.name == "cifar10c" else "cifar10c",
        )

    return Family(type.name, type.summary, type.argument, recipe)


TYPE_ZERO = _family(
    Type(
        name="cifar10c",
        summary="Corrupted CIFAR-10 type 0 (DisEnt, DCWP): biased by ten corruptions, 32x32.",
        argument="a parameter column 1 to 5 (5 if left out), 'exact' for the published numbers of "
        "images, or both as in cifar10c:3,exact",
        exact=True,
        version=2,
        raw=(sources.CIFAR10, sources.FROST),
        corruptions=lambda root, progress: type_zero(sources.frost_photos(root, progress)),
        streams=(_IMAGES, _IMAGES + 1),
    )
)
TYPE_ONE = _family(
    Type(
        name="cifar10c_type1",
        summary="Corrupted CIFAR-10 type 1 (LfF): objects biased by noises and blurs, 32x32.",
        argument="a parameter column 1 to 5 (5 if left out)",
        exact=False,
        version=1,
        raw=(sources.CIFAR10,),
        corruptions=lambda root, progress: type_one(),
        streams=(_IMAGES + 2, _IMAGES + 3),
    )
)
