"""Coloured MNIST as used by DisEnt, DCWP and BiasEnsemble: digits biased by ten saturated hues.

Pixels above grey 100 take the colour, the others keep their grey; there is no colour noise. This
is not the Coloured MNIST of LfF, whose colours are jittered and whose bias is harder to learn:
numbers of the two are not comparable.

Departures: the authors published images, not their split. Here a permutation seeded by the data
seed chooses the 55,000 training images, and the number of bias-conflicting ones at the published
ratios is fixed to the authors' (supplement of Lee et al., NeurIPS 2021).
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.datasets import sources
from harness.datasets.bias import assign, uniform_over_all
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.training_set import Transform

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

TRAIN = 55_000
NUM_COLOURS = 10
THRESHOLD = 100
PALETTE = np.array(
    [
        [255, 0, 0],
        [255, 128, 0],
        [255, 255, 0],
        [128, 255, 0],
        [0, 255, 0],
        [0, 255, 255],
        [0, 0, 255],
        [128, 0, 255],
        [255, 0, 128],
        [255, 0, 255],
    ],
    dtype=np.uint8,
)
PUBLISHED_CONFLICTS = {0.5: 249, 1.0: 491, 2.0: 986, 5.0: 2449}

_STREAM_SPLIT, _STREAM_TRAIN, _STREAM_VALID_BIASED, _STREAM_VALID_UNBIASED, _STREAM_TEST = range(5)


def colour(digits: Bytes, attributes: Ints) -> Bytes:
    """Colours (N, 28, 28) grey digits by (N,) palette indices, giving (N, 3, 28, 28)."""
    grey = digits[:, None]  # (N, 1, 28, 28)
    return np.where(grey > THRESHOLD, PALETTE[attributes][:, :, None, None], grey)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Colours MNIST so that `ratio` percent of the training digits have a redrawn colour."""
    redraw = uniform_over_all(len(PALETTE))

    def bias(labels: Ints, ids: Ints, rng: np.random.Generator, training: bool) -> Ints:
        conflicts = PUBLISHED_CONFLICTS.get(ratio) if training else None
        return assign(labels, ratio, redraw, rng, conflicts)

    return colour_mnist(
        root, seed, progress, bias, lambda digits, hues, ids, part: colour(digits, hues)
    )


class Bias(Protocol):
    """Gives training-biased attributes to some of MNIST's training images."""

    def __call__(self, labels: Ints, ids: Ints, rng: np.random.Generator, training: bool) -> Ints:
        """Attributes (N,) of the images at positions `ids`; not `training` means validation."""


class Paint(Protocol):
    """Colours digits by their attributes."""

    def __call__(self, digits: Bytes, attributes: Ints, ids: Ints, part: str) -> Bytes:
        """Maps (N, 28, 28) to (N, 3, 28, 28); `ids` are positions in MNIST's `part`."""


def colour_mnist(
    root: Path, seed: int, progress: Progress, bias: Bias, paint: Paint
) -> dict[str, SplitArrays]:
    """Splits MNIST by a seeded permutation and colours it; the test attribute is uniform."""
    raw = sources.mnist(root, progress)

    def rng(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, stream))

    order = rng(_STREAM_SPLIT).permutation(len(raw.train_labels))
    train, valid, test = order[:TRAIN], order[TRAIN:], np.arange(len(raw.test_labels))
    labels = raw.train_labels

    def split(ids: Ints, attributes: Ints) -> SplitArrays:
        images = paint(raw.train_images[ids], attributes, ids, "train")
        return SplitArrays(images, labels[ids], attributes, ids)

    def uniform(count: int, stream: int) -> Ints:
        return rng(stream).integers(NUM_COLOURS, size=count)

    hues = uniform(len(test), _STREAM_TEST)
    return {
        "train": split(train, bias(labels[train], train, rng(_STREAM_TRAIN), True)),
        "valid_biased": split(valid, bias(labels[valid], valid, rng(_STREAM_VALID_BIASED), False)),
        "valid_unbiased": split(valid, uniform(len(valid), _STREAM_VALID_UNBIASED)),
        "test": SplitArrays(
            paint(raw.test_images, hues, test, "test"), raw.test_labels, hues, test
        ),
    }


RECIPE = Recipe(
    name="cmnist",
    summary="Coloured MNIST (DisEnt, DCWP): digits biased by ten saturated colours, 28x28.",
    num_classes=10,
    num_attributes=10,
    image_shape=(3, 28, 28),
    ratios=tuple(PUBLISHED_CONFLICTS),
    transform=Transform(),
    backbones={"paper": ("cnn", "none"), "quick": ("cnn", "none")},
    sources=sources.MNIST.describe(),
    version=1,
    build=build,
    raw_files=sources.MNIST.checksums(),
)
