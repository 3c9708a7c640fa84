"""Coloured MNIST of LfF (Nam et al., NeurIPS 2020): digits shaded by ten jittered colours.

The grey value multiplies a colour that differs a little from image to image; the lower the
jitter (severity 5 is the lowest), the easier the bias. Numbers are not comparable with those on
`cmnist`, whose colours are saturated and free of noise.

The assignment of colours is the authors', without chance: the k-th image of a class, in the order
of the official file, takes the first colour whose share of the class reaches beyond k.

Departures: the authors train on all 60,000 images and choose on the test images; here a permutation
seeded by the data seed holds out 5,000 of them, coloured as the authors would, for validation.
Their jitter is not seeded; here it depends on the data seed and the image. Test colours are drawn
uniformly instead of assigned in blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets import sources
from harness.datasets.cmnist import NUM_COLOURS, TRAIN, Bytes, Ints, colour_mnist
from harness.datasets.recipe import Family, Progress, Recipe, SplitArrays
from harness.training_set import Transform

PALETTE = np.array(
    [
        [0.983682, 0.312519, 0.168575],
        [0.990530, 0.915605, 0.351512],
        [0.672964, 0.461070, 0.579808],
        [0.783252, 0.831556, 0.601329],
        [0.088016, 0.777963, 0.981808],
        [0.321393, 0.961055, 0.446450],
        [0.024616, 0.235650, 0.758666],
        [0.555247, 0.101580, 0.761763],
        [0.207723, 0.392949, 0.018702],
        [0.833658, 0.202409, 0.266943],
    ]
)
JITTER = {1: 0.05, 2: 0.02, 3: 0.01, 4: 0.005, 5: 0.002}  # standard deviation by severity
DEFAULT_SEVERITY = 4

_JITTER_STREAM = {"train": 11, "test": 12}  # beyond the streams of cmnist


def assign_in_order(labels: Ints, ratio: float) -> Ints:
    """Gives (N,) images in official order their colours, `ratio` percent of them conflicting."""
    attributes = np.empty_like(labels)
    share = ratio / 100
    for label in range(NUM_COLOURS):
        members = np.flatnonzero(labels == label)
        shares = np.full(NUM_COLOURS, share / (NUM_COLOURS - 1))
        shares[label] = 1 - share
        milestones = np.round(len(members) * np.cumsum(shares))
        attributes[members] = np.searchsorted(milestones, np.arange(len(members)), side="right")
    return attributes


def shade(digits: Bytes, attributes: Ints, noise: np.ndarray, severity: int) -> Bytes:
    """Colours (N, 28, 28) digits, with standard normal (N, 3) noise, giving (N, 3, 28, 28)."""
    colours = (PALETTE[attributes] + JITTER[severity] * noise).clip(0, 1)  # (N, 3)
    shaded: Bytes = (digits[:, None] * colours[:, :, None, None]).astype(np.uint8)
    return shaded


def _recipe(argument: str) -> Recipe:
    if argument and argument not in map(str, JITTER):
        raise ValueError(f"cmnist_lff:{argument}: the severity is 1, 2, 3, 4 or 5")
    severity = int(argument or DEFAULT_SEVERITY)

    def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
        raw = sources.mnist(root, progress)
        assigned = assign_in_order(raw.train_labels, ratio)
        noise = {
            part: np.random.default_rng((seed, stream)).normal(size=(TRAIN + 5_000, 3))
            for part, stream in _JITTER_STREAM.items()
        }
        return colour_mnist(
            root,
            seed,
            progress,
            lambda labels, ids, rng, training: assigned[ids],
            lambda digits, hues, ids, part: shade(digits, hues, noise[part][ids], severity),
        )

    return Recipe(
        name="cmnist_lff" if severity == DEFAULT_SEVERITY else f"cmnist_lff:{severity}",
        summary=f"Coloured MNIST of LfF, severity {severity}: digits shaded by jittered colours.",
        num_classes=10,
        num_attributes=NUM_COLOURS,
        image_shape=(3, 28, 28),
        ratios=(0.5, 1.0, 2.0, 5.0),
        transform=Transform(),
        backbones={"paper": ("mlp", "none"), "quick": ("cnn", "none")},
        sources=sources.MNIST.describe(),
        version=1,
        build=build,
        raw_files=sources.MNIST.checksums(),
        like="cmnist",
    )


FAMILY = Family(
    name="cmnist_lff",
    summary="Coloured MNIST of LfF: digits shaded by ten jittered colours, 28x28.",
    argument="severity 1 to 5, the higher the less jitter; 4 if left out",
    recipe=_recipe,
)
