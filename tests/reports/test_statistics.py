"""Ranks, tests and claims against published and hand-computed numbers."""

from __future__ import annotations

import itertools
import math
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.critical_difference import diagram
from reports.statistics import against, compare, critical_distance, interval

# Demšar 2006, table 6: C4.5, with m tuned, with cf tuned, with both. The paper ranks the third
# above the fourth on the 13th data set although both are printed as 0.975.
DEMSAR = pd.DataFrame(
    [
        (76.3, 76.8, 77.1, 79.8),
        (59.9, 59.1, 59.0, 56.9),
        (95.4, 97.1, 96.8, 96.7),
        (62.8, 66.1, 65.4, 65.7),
        (88.2, 88.8, 88.6, 89.8),
        (93.6, 93.1, 91.6, 93.1),
        (66.1, 66.8, 60.9, 68.5),
        (58.3, 58.3, 56.3, 62.5),
        (77.5, 83.8, 86.6, 87.5),
        (100.0, 100.0, 100.0, 100.0),
        (94.0, 96.2, 96.5, 96.2),
        (61.9, 66.6, 61.4, 66.9),
        (97.2, 98.1, 97.51, 97.5),
        (95.7, 97.8, 94.6, 97.0),
    ],
    columns=["plain", "m", "cf", "both"],
)


def noise(n: int, k: int, step: float, seed: int = 0) -> pd.DataFrame:
    """Scores of k methods, each `step` standard deviations better than the one before."""
    values = np.random.default_rng(seed).normal(size=(n, k)) + step * np.arange(k)
    return pd.DataFrame(
        70 + values, index=[f"cell {i}" for i in range(n)], columns=list("abcdefghijkl"[:k])
    )


def test_demsars_published_example() -> None:
    comparison = compare(DEMSAR)
    ranks = comparison.average_ranks.round(3).to_dict()
    assert ranks == {"both": 1.964, "m": 2.000, "cf": 2.893, "plain": 3.143}
    assert comparison.omnibus is not None
    # The paper's 9.28 ignores ties; SciPy divides by 1 - sum(t³ - t) / (N (k³ - k)).
    ties = 3 * (2**3 - 2) + (4**3 - 4)
    assert comparison.omnibus.statistic * (1 - ties / (14 * 60)) == pytest.approx(9.28, abs=0.005)
    assert comparison.omnibus.critical_distance == pytest.approx(1.25, abs=0.005)
    # "the post-hoc test is not powerful enough to detect any significant differences"
    assert comparison.groups == (("both", "m", "cf", "plain"),)
    assert comparison.allows_pairs
    assert comparison.claims[-1].endswith("tells no two apart; no pairwise claim is made.")


@pytest.mark.parametrize(
    ("k", "q"),
    list(enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=2)),
)
def test_critical_distance_has_the_published_quantiles(k: int, q: float) -> None:
    n = 7  # Demšar 2006, table 5a
    assert critical_distance(k, n) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * n)), rel=4e-4)


def test_ranks_and_win_rates_with_ties() -> None:
    scores = pd.DataFrame(
        {"a": [90.0, 80, 70, 0.1 + 0.2], "b": [90.0, 85, 60, 0.3], "c": [80.0, 85, 65, 0.2]}
    )
    comparison = compare(scores)
    # Ranks by row: 1.5 1.5 3, 3 1.5 1.5, 1 3 2, 1.5 1.5 3 (0.1 + 0.2 is 0.3).
    assert comparison.average_ranks.to_dict() == {"a": 1.75, "b": 1.875, "c": 2.375}
    wins = comparison.win_rates
    assert wins.loc["a", "b"] == (0.5 + 0 + 1 + 0.5) / 4
    assert wins.loc["b", "c"] == (1 + 0.5 + 0 + 1) / 4
    assert wins.loc["c", "b"] == 1 - wins.loc["b", "c"]
    assert np.isnan(wins.loc["a", "a"])


def test_pairs_are_claimed_beyond_the_critical_distance() -> None:
    scores = noise(20, 6, step=1.0)
    comparison = compare(scores)
    omnibus, ranks = comparison.omnibus, comparison.average_ranks
    assert omnibus is not None
    expected = stats.friedmanchisquare(*scores.to_numpy().T)
    assert (omnibus.statistic, omnibus.p) == pytest.approx(expected)
    apart = {
        (a, b)
        for a, b in itertools.permutations(scores, 2)
        if ranks[b] - ranks[a] > omnibus.critical_distance
    }
    assert 0 < len(apart) < 15
    claimed = set()
    for claim in comparison.claims:
        better, found, worse = claim.partition(" ranks better than ")
        if found:
            claimed |= {(better[0], name[0]) for name in worse.split(", ")}
    assert claimed == apart
    for a, b in itertools.permutations(scores, 2):
        together = any({a, b} <= set(group) for group in comparison.groups)
        assert together == ((a, b) not in apart and (b, a) not in apart)
    assert not any(set(g) < set(h) for g in comparison.groups for h in comparison.groups)


def test_a_method_apart_from_all_others_is_no_group() -> None:
    assert compare(noise(30, 3, step=9.0)).groups == ()


UNDECIDED = pd.DataFrame(
    [
        list(map(float, row))
        for row in "652413 634251 614532 361524 543621 432561 254361 435261".split()
    ],
    columns=list("abcdef"),
)
"""Nemenyi's test alone would tell a from f (p = 0.039), Friedman's rejects nothing (p = 0.059)."""


def test_no_pairwise_claim_unless_friedman_rejects() -> None:
    comparison = compare(UNDECIDED)
    assert comparison.omnibus is not None
    assert comparison.omnibus.p > 0.05 > comparison.omnibus.nemenyi.min().min()
    assert not comparison.allows_pairs
    assert comparison.groups == (tuple(comparison.average_ranks.index),)
    text = " ".join(comparison.claims)
    assert "N = 8 blocks and k = 6 methods" in text and "p = 0.0589" in text
    assert "within chance; no pairwise claim is made" in text and "better" not in text
    assert len(crossbars(diagram(comparison))) == 1


def test_what_is_left_out_is_said() -> None:
    scores = noise(6, 4, step=3.0)
    scores.loc["cell 1":, "b"] = np.nan
    scores.loc["cell 2", ["a", "d"]] = np.nan
    scores.loc["cell 4"] = np.nan
    comparison = compare(scores)
    assert comparison.left_out == (
        "method b: results in 1 of 5 blocks",
        "block cell 2: no result of a, d",
        "block cell 4: no result of any compared method",
    )
    assert list(comparison.scores.index) == ["cell 0", "cell 1", "cell 3", "cell 5"]
    assert comparison.average_ranks.to_dict() == {"d": 1, "c": 2, "a": 3}
    assert "N = 4 blocks and k = 3 methods" in comparison.claims[0]


def test_blocks_of_a_multiindex_are_named_by_their_levels() -> None:
    scores = noise(3, 3, step=1.0)
    scores.index = pd.MultiIndex.from_tuples([("cmnist", 0.5), ("cmnist", 1.0), ("bffhq", 0.5)])
    scores.iloc[1, 0] = np.nan
    assert compare(scores).left_out == ("block cmnist, 1.0: no result of a",)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (noise(1, 6, step=1.0), "here are 6 methods in 1 block: nothing is claimed."),
        (noise(9, 2, step=1.0), "here are 2 methods in 9 blocks: nothing is claimed."),
        (noise(9, 3, step=1.0) * np.nan, "here are 0 methods in 0 blocks: nothing is claimed."),
        (noise(9, 3, step=1.0) * 0, "All methods score the same in every block"),
    ],
    ids=["one block", "two methods", "empty", "all equal"],
)
def test_no_omnibus_no_claim_no_diagram(scores: pd.DataFrame, reason: str) -> None:
    comparison = compare(scores)
    assert comparison.omnibus is None and comparison.groups == ()
    assert len(comparison.claims) == 1 and reason in comparison.claims[0]
    with pytest.raises(ValueError, match="^no critical-difference diagram: .*claimed.$"):
        diagram(comparison)


def test_ranks_and_win_rates_exist_for_a_single_block() -> None:
    comparison = compare(noise(1, 3, step=9.0))
    assert comparison.average_ranks.to_dict() == {"c": 1, "b": 2, "a": 3}
    assert comparison.win_rates.loc["c", "a"] == 1 and comparison.win_rates.loc["a", "b"] == 0


def test_order_of_rows_and_columns_does_not_matter() -> None:
    scores = noise(12, 6, step=0.7).round(0)  # with ties
    scores["f"] = scores["a"]
    scores.iloc[3, 2] = np.nan
    one = compare(scores)
    other = compare(scores.iloc[::-1, [3, 5, 0, 1, 4, 2]])
    assert one.claims == other.claims and one.groups == other.groups
    pd.testing.assert_series_equal(one.average_ranks, other.average_ranks)
    pd.testing.assert_frame_equal(one.win_rates, other.win_rates)
    assert diagram(one) == diagram(other)
    swapped = against(scores.iloc[::-1, [3, 5, 0, 1, 4, 2]], "c")
    pd.testing.assert_frame_equal(against(scores, "c"), swapped)


def test_wilcoxon_and_holm_by_hand() -> None:
    # "ours" is better by 1 … 9; "b" and "c" are better in the block of rank 1, "d" in 1, 2 and 3.
    ahead = pd.DataFrame(np.tile(np.arange(1.0, 10), (4, 1)).T, columns=list("abcd"))
    ahead.loc[0, ["b", "c"]] *= -1
    ahead.loc[:2, "d"] *= -1
    scores = (80 - ahead).assign(ours=80.0)
    table = against(scores, "ours").set_index("other")
    # Of the 2^9 signs, so many give a smaller sum of ranks at most as large; twice for two sides.
    assert (table["p"] * 512).to_dict() == pytest.approx({"a": 2, "b": 4, "c": 4, "d": 28})
    # 2 · 4, 4 · 3, 4 · 2 raised to the one before, 28 · 1.
    assert (table["p_holm"] * 512).to_dict() == pytest.approx({"a": 8, "b": 12, "c": 12, "d": 28})
    assert list(table["verdict"]) == ["better", "better", "better", "not told apart"]
    assert list(table["n"]) == [9] * 4 and list(table["median_difference"]) == [5.0] * 4
    mirrored = against(scores, "a").set_index("other")
    assert mirrored.loc["ours", "verdict"] == "worse"
    assert mirrored.loc["ours", "median_difference"] == -5


def test_wilcoxon_leaves_out_equal_blocks_and_missing_ones() -> None:
    scores = pd.DataFrame({"a": [1.0, 2, 3, 4, 5, 6, 7, 0.3, np.nan], "b": [0.0] * 7 + [0.3, 1]})
    scores["a"] += 0.1 + 0.2 - 0.3  # rounding errors are no differences
    scores["c"] = scores["b"] * np.nan
    (row,) = against(scores, "a").itertuples()
    assert (row.other, row.n, row.median_difference) == ("b", 8, 3.5)
    assert row.p == row.p_holm == 2 / 2**7 and row.verdict == "better"
    assert against(scores, "c").empty
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        level = against(pd.DataFrame({"a": [1.0] * 20, "b": [1.0] * 20}), "a")
    assert level["p"].item() == 1 and level["verdict"].item() == "not told apart"


@pytest.mark.parametrize(
    ("n", "k", "least"),
    [(5, 2, 2 / 32), (6, 2, None), (6, 3, 2 * 2 / 64), (7, 3, None), (1, 3, 1)],
)
def test_too_few_blocks_for_wilcoxon_are_said(n: int, k: int, least: float | None) -> None:
    verdicts = set(against(noise(n, k, step=50.0), "a")["verdict"])
    if least is None:
        assert verdicts == {"worse"}
    else:
        assert verdicts == {f"no claim: too few blocks, p_holm cannot be below {least:.3g}"}


def test_wilcoxon_claims_nothing_that_friedman_does_not_allow() -> None:
    # a is always ahead of b, and c ahead of both or behind both: ranks 1.5, 2.5, 2, χ² = 4.
    a = np.full(8, 80.0)
    scores = pd.DataFrame({"a": a, "b": a - np.arange(1, 9), "c": a + [20, -20] * 4})
    table = against(scores, "a").set_index("other")
    assert table.loc["b", "p_holm"] == 2 * 2 / 2**8
    refused = f"no claim: Friedman's test does not reject equality (p = {math.exp(-2):.3g})"
    assert table.loc["b", "verdict"] == refused
    assert against(scores[["a", "b"]], "a")["verdict"].item() == "better"  # needs no omnibus


def test_unknown_method_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"^unknown method 'plian'\. Did you mean 'plain'\? .*$"):
        against(DEMSAR, "plian")


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_interval_of_few_seeds_is_exact(n: int) -> None:
    values = list(np.random.default_rng(n).normal(80, 3, size=n))
    means = [float(np.mean(draw)) for draw in itertools.product(values, repeat=n)]
    tail = math.floor(0.025 * len(means))  # so many resamples lie beyond either end
    ordered = sorted(means)
    assert interval(values) == pytest.approx((ordered[tail], ordered[-1 - tail]))
    sampled = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=200_000, rng=1
    ).confidence_interval
    assert interval(values) == pytest.approx(tuple(sampled), abs=0.1)


def test_interval_of_many_seeds_approaches_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(80, 3, size=200)
    half = 1.96 * values.std() / math.sqrt(200)
    assert interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


@pytest.mark.parametrize("n", [2, 5, 6, 12])
def test_interval_properties(n: int) -> None:
    values = np.random.default_rng(n).normal(80, 3, size=n)
    low, high = interval(values)
    assert min(values) <= low < values.mean() < high <= max(values)
    assert interval(values[::-1]) == (low, high)  # bit-equal: same seeds, any order
    assert interval(2 * values + 1) == pytest.approx((2 * low + 1, 2 * high + 1))


def test_degenerate_intervals_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(interval([])).all() and np.isnan(interval([80.0])).all()
        assert np.isnan(interval([80.0, math.nan] * 4)).all()
        for n in (2, 4, 8):
            assert interval([80.1] * n) == pytest.approx((80.1, 80.1))


def crossbars(svg: str) -> list[list[float]]:
    """The x coordinates of each thick line of a diagram."""
    bars = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        if "stroke-width: 4" in path.get("style", ""):
            bars.append([float(x) for x in path.get("d", "").replace("L", "M").split()[1::3]])
    return bars


def test_diagram_shows_names_ranks_groups_and_critical_distance() -> None:
    scores = noise(20, 6, step=1.0).rename(columns={"a": "$x_1$ <&>"})
    comparison = compare(scores)
    svg = diagram(comparison)
    texts = ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter() if "text" in t.tag]
    for method, rank in comparison.average_ranks.items():
        assert {f"{method} ({rank:.2f})", f"({rank:.2f}) {method}"} & set(texts)
    assert f"CD = {critical_distance(6, 20):.2f}" in texts
    assert len(crossbars(svg)) == len(comparison.groups) > 1


def test_diagram_bytes_do_not_depend_on_the_order_of_a_set() -> None:
    comparison = compare(noise(3, 12, step=0.0))
    svg = diagram(comparison)
    assert svg == diagram(comparison) and svg.startswith("<svg")
    (bar,) = crossbars(svg)
    assert bar == sorted(bar)  # else it depends on the hashes of the names
