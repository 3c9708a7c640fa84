"""Statistics of methods compared over benchmark cells, and what they allow one to claim.

The tests follow Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR
2006. They take the blocks as independent; cells that share a data set are not quite, which makes
the p-values too small.

Everywhere `scores` has a row per block (benchmark cell, e.g. "cmnist, 1 %"), a column per method
and mean test scores in percent, higher better, NaN where a method has no result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # loads its submodules on first use: stats takes half a second

from harness.space import unknown

ALPHA = 0.05
"""Level of every test."""

DIGITS = 9
"""Decimals that count: means of the same runs summed in another order are ties."""

RESAMPLES = 9_999
"""Bootstrap resamples where not all can be listed."""


class Omnibus(NamedTuple):
    """Friedman's test that all methods rank alike, and Nemenyi's test of all pairs after it."""

    statistic: float
    p: float
    nemenyi: pd.DataFrame
    """p-values, methods x methods, best average rank first."""
    critical_distance: float
    """Average ranks closer than this cannot be told apart."""


class Comparison(NamedTuple):
    """Methods compared over the blocks in which all of them have results."""

    scores: pd.DataFrame
    """The complete table that was used, best average rank first."""
    left_out: tuple[str, ...]
    """Methods and blocks that were not used, each with the reason."""
    average_ranks: pd.Series[float]
    """By method, 1 is best, ties share their average."""
    win_rates: pd.DataFrame
    """Share of blocks in which the row's method beats the column's; a tie is half a win."""
    omnibus: Omnibus | None
    """None where Friedman's test is not defined; the claims say why."""
    groups: tuple[tuple[str, ...], ...]
    """Largest sets of two or more methods that the tests cannot tell apart."""
    claims: tuple[str, ...]
    """Sentences: what may be said about the differences, and why not more."""

    @property
    def allows_pairs(self) -> bool:
        """Whether the omnibus test rejects equality, without which no pair is claimed to differ."""
        return self.omnibus is not None and self.omnibus.p < ALPHA


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean over training seeds.

    It shows one source of variance, the training seed: hyperparameters and data are fixed. Up to 5
    seeds it is exact, over all n^n resamples; from 6 on over 9,999 drawn with a fixed seed. The
    order of the values does not matter.

    With few seeds it is too narrow: of normally distributed values it covers the mean in about 75,
    79, 84 and 91 % of cases with 3, 4, 5 and 10 seeds. The BCa bootstrap does no better there.

    Returns:
        Lower and upper end; (nan, nan) for fewer than two values or if one is NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n < 2 or np.isnan(ordered).any():
        return math.nan, math.nan
    if n**n <= RESAMPLES:
        means = ordered[np.indices((n,) * n).reshape(n, -1)].mean(axis=0)  # (n^n,)
        low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    else:
        low, high = scipy.stats.bootstrap(
            (ordered,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
        ).confidence_interval
    return float(low), float(high)


def compare(scores: pd.DataFrame) -> Comparison:
    """Ranks, win-rates and tests of all methods, with the claims they allow.

    Compared are the methods with results in at least half of the blocks, over the blocks in which
    all of these have one. Pairs are claimed to differ only if Friedman's test rejects equality and
    Nemenyi's test then tells the two apart, both at the 5 % level.
    """
    table, left_out = _complete(scores.round(DIGITS))
    ranks = table.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    table = table[ranks.index]
    problem = _untestable(table)
    omnibus = None if problem else _omnibus(table)
    groups = _groups(omnibus) if omnibus else ()
    claims = _claims(len(table), ranks, omnibus) if omnibus else (problem,)
    return Comparison(table, left_out, ranks, _win_rates(table), omnibus, groups, claims)


def critical_distance(k: int, n: int) -> float:
    """Nemenyi's critical distance between the average ranks of k methods in n blocks (5 % level).

    Demšar 2006, section 3.2.2: q sqrt(k (k + 1) / (6 n)) with q the quantile of the studentized
    range for k groups and infinite degrees of freedom, divided by sqrt(2).
    """
    q = scipy.stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(k * (k + 1) / (6 * n)))


def against(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """Wilcoxon's signed-rank test of one method against each other one, adjusted by Holm.

    Each pair is tested over the blocks that both have results in, exactly where SciPy can; blocks
    without a difference do not count. Methods that share no block with `method` are absent.

    Returns:
        A row per other method, smallest p first: `other`, `n` (shared blocks), `median_difference`
        (positive: `method` is better), `p`, `p_holm` and `verdict` on `method`: better, worse, not
        told apart, or why nothing is claimed: too few blocks for a p_holm below 5 %, or Friedman's
        test over all methods does not reject equality.

    Raises:
        ValueError: `method` is none of the columns.
    """
    # Slow to import.
    from statsmodels.stats import multitest  # type: ignore[import-untyped, unused-ignore]

    if method not in scores.columns:
        raise ValueError(unknown("method", method, map(str, scores.columns)))
    others = scores.drop(columns=method)
    differences = others.rsub(scores[method], axis=0).round(DIGITS).dropna(axis=1, how="all")
    rows = [(str(m), *_signed_rank(differences[m].dropna())) for m in differences.columns]
    columns = ["other", "n", "median_difference", "p", "sign"]
    table = pd.DataFrame(rows, columns=columns).sort_values(["p", "other"], ignore_index=True)
    table["p_holm"] = multitest.multipletests(table["p"], alpha=ALPHA, method="holm")[1]

    veto = _veto(compare(scores))
    # The smallest p is 2 / 2^n, and Holm multiplies the smallest of all by their number.
    least = 2 / 2.0 ** table["n"]
    bounds = least.clip(lower=len(table) * least.min()).clip(upper=1)
    judged = zip(table["p_holm"], table.pop("sign"), bounds, strict=True)
    return table.assign(verdict=[_verdict(p, sign, bound, veto) for p, sign, bound in judged])


def _complete(scores: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table without gaps that is compared, methods by name, and what was left out of it."""
    measured = scores.dropna(how="all").sort_index(axis=1)
    counts = measured.notna().sum()
    kept = counts >= max(1, len(measured) / 2)
    left_out = [
        f"method {method}: results in {count} of {_count(len(measured), 'block')}"
        for method, count in counts[~kept].items()
    ]
    gaps = scores[counts.index[kept]].isna()
    for block, gap in gaps[gaps.any(axis=1)].iterrows():
        missing = "any compared method" if gap.all() else ", ".join(gap.index[gap])
        left_out.append(f"block {_name(block)}: no result of {missing}")
    return measured.loc[:, kept].dropna(), tuple(left_out)


def _win_rates(table: pd.DataFrame) -> pd.DataFrame:
    ours = table.to_numpy()[:, :, None]  # (N, k, 1)
    theirs = table.to_numpy()[:, None, :]  # (N, 1, k)
    wins = ((ours > theirs) + (ours == theirs) / 2).sum(axis=0)  # (k, k)
    np.fill_diagonal(wins, np.nan)
    return pd.DataFrame(wins, index=table.columns, columns=table.columns) / len(table)


def _untestable(table: pd.DataFrame) -> str:
    """Why Friedman's test is not defined; empty if it is."""
    n, k = table.shape
    if n < 2 or k < 3:
        have = f"{_count(k, 'method')} in {_count(n, 'block')}"
        return (
            f"Friedman's test needs at least 3 methods and 2 blocks; here are {have}: "
            "nothing is claimed."
        )
    if table.nunique(axis=1).eq(1).all():
        return "All methods score the same in every block: nothing is claimed."
    return ""


def _omnibus(table: pd.DataFrame) -> Omnibus:
    # Takes seconds to import.
    import scikit_posthocs  # type: ignore[import-untyped, unused-ignore]

    n, k = table.shape
    statistic, p = scipy.stats.friedmanchisquare(*table.to_numpy().T)
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(table)
    return Omnibus(float(statistic), float(p), nemenyi, critical_distance(k, n))


def _groups(omnibus: Omnibus) -> tuple[tuple[str, ...], ...]:
    methods = [str(method) for method in omnibus.nemenyi]
    if omnibus.p >= ALPHA:
        return (tuple(methods),)
    alike = omnibus.nemenyi.to_numpy() >= ALPHA
    groups: list[tuple[str, ...]] = []
    reached = 0
    for start in range(len(methods)):
        # Nemenyi's p falls as the difference in rank grows, so a group has no holes.
        end = start + int(alike[start, start:].sum())
        if end > max(reached, start + 1):
            groups.append(tuple(methods[start:end]))
            reached = end
    return tuple(groups)


def _claims(n: int, ranks: pd.Series[float], omnibus: Omnibus) -> tuple[str, ...]:
    k = len(ranks)
    found = (
        f"Friedman's test over N = {n} blocks and k = {k} methods: "
        f"χ² = {omnibus.statistic:.2f}, {_p(omnibus.p)}"
    )
    rough = []
    if n <= 10 or k <= 5:
        rough = [
            "With N ≤ 10 or k ≤ 5 the χ² approximation is rough and the test misses much: "
            "no difference found does not mean equal."
        ]
    if omnibus.p >= ALPHA:
        chance = "differences in average rank are within chance; no pairwise claim is made."
        return (f"{found}: {chance}", *rough)
    names = [f"{method} ({rank:.2f})" for method, rank in ranks.items()]
    apart = omnibus.nemenyi.to_numpy() < ALPHA
    pairs = []
    for i, name in enumerate(names):
        worse = [names[j] for j in range(i + 1, k) if apart[i, j]]
        if worse:
            pairs.append(f"{name} ranks better than {', '.join(worse)}.")
    distance = f"critical distance {omnibus.critical_distance:.2f}"
    if pairs:
        nemenyi = f"Nemenyi's test ({distance}) tells these apart, average ranks in brackets."
    else:
        nemenyi = f"Nemenyi's test ({distance}) tells no two apart; no pairwise claim is made."
    overall = f"{found}: the methods differ, taking the blocks as independent."
    return (overall, *rough, nemenyi, *pairs)


def _signed_rank(differences: pd.Series[float]) -> tuple[int, float, float, float]:
    """Number of blocks, median difference, two-sided p and the sign of the effect."""
    changed = differences[differences != 0].to_numpy()
    p = float(scipy.stats.wilcoxon(changed).pvalue) if len(changed) else 1.0
    sign = float(np.sign(np.sign(changed) @ scipy.stats.rankdata(abs(changed))))
    return len(differences), float(differences.median()), p, sign


def _veto(comparison: Comparison) -> str:
    """Why no pair may be claimed to differ; empty if the omnibus test lets one."""
    if comparison.allows_pairs or comparison.scores.shape[1] < 3:  # two methods need no omnibus
        return ""
    found = f" ({_p(comparison.omnibus.p)})" if comparison.omnibus else ""
    return f"no claim: Friedman's test does not reject equality{found}"


def _verdict(p: float, sign: float, bound: float, veto: str) -> str:
    if bound >= ALPHA:
        return f"no claim: too few blocks, p_holm cannot be below {bound:.3g}"
    if p >= ALPHA:
        return "not told apart"
    return veto or ("better" if sign > 0 else "worse")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _name(block: object) -> str:
    """A block of a MultiIndex reads like any other: "cmnist, 1"."""
    return ", ".join(map(str, block)) if isinstance(block, tuple) else str(block)
