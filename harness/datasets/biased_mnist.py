"""Biased MNIST of ReBias (Bahng et al., ICML 2020), also of EnD: white digits on coloured ground.

The published correlation rho is the aligned share; here the ratio is the conflicting one in
percent, 100 (1 - rho).

Departures: the authors train on all 60,000 images; here a permutation seeded by the data seed holds
out 5,000 of them for validation. Conflicting colours are drawn image by image, where the authors
share them out evenly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.datasets import sources
from harness.datasets.bias import assign, uniform_over_others
from harness.datasets.cmnist import NUM_COLOURS, Bytes, Ints, colour_mnist
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.training_set import Transform

PALETTE = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [225, 225, 0],
        [225, 0, 225],
        [0, 255, 255],
        [255, 128, 0],
        [255, 0, 128],
        [128, 0, 255],
        [128, 128, 128],
    ],
    dtype=np.uint8,
)


def on_ground(digits: Bytes, attributes: Ints) -> Bytes:
    """Puts (N, 28, 28) digits, white where not black, on coloured ground: (N, 3, 28, 28)."""
    ground = PALETTE[attributes][:, :, None, None]
    return np.where(digits[:, None] > 0, np.uint8(255), ground)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Colours MNIST so that `ratio` percent of the training digits have another's colour."""
    redraw = uniform_over_others(NUM_COLOURS)
    return colour_mnist(
        root,
        seed,
        progress,
        lambda labels, ids, rng, training: assign(labels, ratio, redraw, rng),
        lambda digits, hues, ids, part: on_ground(digits, hues),
    )


RECIPE = Recipe(
    name="biased_mnist",
    summary="Biased MNIST (ReBias, EnD): white digits on ten ground colours, 28x28.",
    num_classes=10,
    num_attributes=NUM_COLOURS,
    image_shape=(3, 28, 28),
    ratios=(0.1, 0.3, 0.5, 1.0),
    transform=Transform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    backbones={"paper": ("cnn", "none"), "quick": ("cnn", "none")},
    sources=sources.MNIST.describe(),
    version=1,
    build=build,
    raw_files=sources.MNIST.checksums(),
    like="cmnist",
)
