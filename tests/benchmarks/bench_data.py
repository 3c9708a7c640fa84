"""Corrupting images in batches against one by one, over all ten corruptions of cifar10c."""

from __future__ import annotations

import numpy as np

from harness import datasets
from harness.datasets import sources
from harness.datasets.cifar10c import COLUMN, NUM_CORRUPTIONS, corrupt
from harness.datasets.corruptions import type_zero
from harness.datasets.recipe import silent


def test_corruptions(sizes, compare):
    root = datasets.default_root()
    images = sources.cifar10(root, silent).train_images
    corruptions = type_zero(sources.frost_photos(root, silent))
    ids = np.arange(20 if sizes.tiny else 2000)
    attributes = ids % NUM_CORRUPTIONS

    def make(chosen: np.ndarray) -> None:
        corrupt(images, ids[chosen], attributes[chosen], corruptions, COLUMN, (0, 0))

    compare(
        f"cifar10c, {len(ids)} images: one by one / in batches",
        lambda: [make(np.array([n])) for n in ids],
        lambda: make(ids),
    )
