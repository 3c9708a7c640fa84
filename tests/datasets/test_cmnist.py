import hashlib

import numpy as np
import pytest

from harness.datasets import cmnist, default_root
from harness.datasets.recipe import silent

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def builds():
    return {ratio: cmnist.build(default_root(), ratio, 0, silent) for ratio in cmnist.RECIPE.ratios}


def test_colouring_reproduces_the_published_sample(mnist):
    # dataset/cmnist/sample.png of the DCWP authors.
    sample = cmnist.colour(mnist.train_images[[44243]], np.array([5]))[0].transpose(1, 2, 0)
    colours, counts = np.unique(sample.reshape(-1, 3), axis=0, return_counts=True)
    assert colours.tolist() == [[0, 0, 0], [0, 255, 255], [64, 64, 64]]
    assert counts.tolist() == [666, 96, 22]
    digest = hashlib.sha256(sample.tobytes()).hexdigest()
    assert digest == "30300673b20608cd97a6d7779be3340e9038594be208600a307d9da73b000bbe"


def test_pixels_above_100_take_the_colour():
    levels = np.array([[[0, 99, 100, 101, 255]]], dtype=np.uint8)
    coloured = cmnist.colour(levels, np.array([7]))[0, :, 0].T
    assert coloured.tolist() == [[0] * 3, [99] * 3, [100] * 3, [128, 0, 255], [128, 0, 255]]


@pytest.mark.parametrize(("ratio", "conflicts"), [(0.5, 249), (1, 491), (2, 986), (5, 2449)])
def test_the_published_number_of_images_conflicts(builds, ratio, conflicts):
    train = builds[ratio]["train"]
    assert len(train.ids) == 55_000
    assert np.sum(train.labels != train.attributes) == conflicts


def test_conflicts_are_nested(builds):
    series = [builds[ratio]["train"] for ratio in (0.5, 1, 2, 5)]
    for small, large in zip(series, series[1:], strict=False):
        conflicting = small.labels != small.attributes
        np.testing.assert_array_equal(small.ids, large.ids)
        np.testing.assert_array_equal(small.attributes[conflicting], large.attributes[conflicting])


def test_splits_are_disjoint_and_evaluation_colours_uniform(builds):
    split = builds[5]
    assert sorted([*split["train"].ids, *split["valid_biased"].ids]) == list(range(60_000))
    np.testing.assert_array_equal(split["valid_biased"].ids, split["valid_unbiased"].ids)
    biased = split["valid_biased"]
    assert 0.03 < np.mean(biased.labels != biased.attributes) < 0.06
    for name in ("valid_unbiased", "test"):
        share = np.mean(split[name].labels == split[name].attributes)
        assert abs(share - 0.1) < 0.015
    np.testing.assert_array_equal(split["test"].images, builds[1]["test"].images)


def test_another_seed_gives_another_split(builds):
    other = cmnist.build(default_root(), 1, 1, silent)["train"]
    assert (other.ids != builds[1]["train"].ids).any()
    assert np.sum(other.labels != other.attributes) == 491


def test_arrays_are_the_same_as_ever(builds):
    # Numbers in published results depend on these. If this fails, raise the recipe's version.
    train = builds[1]["train"]
    digest = hashlib.sha256(train.ids.tobytes() + train.attributes.tobytes()).hexdigest()
    assert digest == "040d0bad858efe91f46157561d61eead6d0f53d51142ca381e7a207d9b7e4977"
