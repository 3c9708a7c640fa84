import numpy as np
import pytest

from harness.datasets.bias import assign, uniform_over_all, uniform_over_others

LABELS = np.random.default_rng(7).integers(10, size=55_000)


OTHERS, ALL = uniform_over_others(10), uniform_over_all(10)


def assigned(ratio, draw=OTHERS, conflicts=None):
    return assign(LABELS, ratio, draw, np.random.default_rng(3), conflicts)


@pytest.mark.parametrize("ratio", [0.5, 1, 5, 50])
def test_the_share_of_conflicts_follows_the_ratio(ratio):
    for draw, factor in ((OTHERS, 1), (ALL, 0.9)):
        p = factor * ratio / 100
        share = np.mean(assigned(ratio, draw) != LABELS)
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(LABELS))


def test_conflicts_spread_evenly_over_the_other_attributes():
    offsets = np.bincount((assigned(100) - LABELS) % 10, minlength=10)
    assert offsets[0] == 0
    np.testing.assert_allclose(offsets[1:], len(LABELS) / 9, rtol=0.06)


@pytest.mark.parametrize("counts", [{}, {0.5: 249, 1: 491, 2: 986, 5: 2449}])
def test_conflicts_of_a_smaller_ratio_keep_their_attribute_at_a_larger_one(counts):
    ratios = (0.5, 0.7, 1, 2, 5, 100)
    series = [assigned(ratio, ALL, counts.get(ratio)) for ratio in ratios]
    for small, large in zip(series, series[1:], strict=False):
        conflicting = small != LABELS
        assert conflicting.sum() < (large != LABELS).sum()
        np.testing.assert_array_equal(small[conflicting], large[conflicting])


@pytest.mark.parametrize("count", [0, 1, 249, 40_000])
def test_the_number_of_conflicts_can_be_fixed(count):
    attributes = assigned(1, ALL, conflicts=count)
    assert np.sum(attributes != LABELS) == count
