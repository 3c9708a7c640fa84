import time

import numpy as np

from harness.datasets import synthetic
from harness.datasets.recipe import silent


def build(ratio, seed=0):
    return synthetic.build(None, ratio, seed, silent)


def test_it_builds_in_a_second():
    start = time.perf_counter()
    splits = build(1)
    assert time.perf_counter() - start < 1
    assert splits["train"].images.shape == (2000, 3, 16, 16)
    for name in ("valid_biased", "valid_unbiased", "test"):
        assert splits[name].images.shape == (400, 3, 16, 16)
        assert np.bincount(splits[name].labels).tolist() == [100] * 4


def test_equal_arguments_give_equal_arrays_and_other_seeds_others():
    first, again, other = build(1), build(1), build(1, seed=1)
    for name, split in first.items():
        for array, repeated in zip(split, again[name], strict=True):
            np.testing.assert_array_equal(array, repeated)
        assert (split.images != other[name].images).any()


def test_only_newly_conflicting_images_depend_on_the_ratio():
    few, many = build(2)["train"], build(20)["train"]
    conflicting = few.labels != few.attributes
    assert 0.005 < conflicting.mean() < 0.04
    same = few.attributes == many.attributes
    assert same[conflicting].all()
    np.testing.assert_array_equal(few.images[same], many.images[same])
    assert all((few.images[n] != many.images[n]).any() for n in np.flatnonzero(~same))


def test_any_ratio_and_no_bias_in_evaluation():
    splits = build(100)
    assert (splits["train"].labels != splits["train"].attributes).all()
    for name in ("valid_unbiased", "test"):
        share = np.mean(splits[name].labels == splits[name].attributes)
        assert 0.17 < share < 0.33
