import numpy as np
import pytest

from harness.datasets import biased_mnist, default_root
from harness.datasets.recipe import silent


def test_ground_takes_the_colour_and_ink_is_white():
    digits = np.array([[[0, 1, 255]]], dtype=np.uint8)
    made = biased_mnist.on_ground(digits, np.array([3]))[0, :, 0].T
    assert made.tolist() == [[225, 225, 0], [255] * 3, [255] * 3]


@pytest.mark.realdata
def test_the_ratio_is_the_share_of_other_colours():
    splits = biased_mnist.build(default_root(), 1.0, 0, silent)
    train, test = splits["train"], splits["test"]
    conflicts = np.sum(train.labels != train.attributes)
    assert abs(conflicts - 550) < 4 * np.sqrt(550 * 0.99)
    assert abs(np.mean(test.labels == test.attributes) - 0.1) < 0.015
    few = biased_mnist.build(default_root(), 0.3, 0, silent)["train"]
    assert ((train.labels != train.attributes) >= (few.labels != few.attributes)).all()
    assert train.images.shape == (55_000, 3, 28, 28)
