"""Methods compared over all benchmark cells of one protocol: ranks, tests, the diagram."""

from __future__ import annotations

import pandas as pd

from harness.space import unknown
from reports.critical_difference import diagram
from reports.leaderboard import cell_names, method_names
from reports.section import Section
from reports.statistics import Comparison, against, compare

CHAPTER = "Statistics"
PROTOCOL = ["preset", "selection", "checkpoint", "data_seed"]
"""What cells must share to be compared with each other."""


def comparison_sections(
    board: pd.DataFrame, reference: str | None = None, figures: bool = True
) -> list[Section]:
    """Average ranks, win-rates and tests per protocol.

    Args:
        board: What :func:`reports.leaderboard.leaderboard` returns.
        reference: A method to test against each other one (Wilcoxon, Holm).
        figures: Whether to draw the critical-difference diagram.

    Raises:
        ValueError: `reference` is no method of the board.
    """
    if reference is not None and reference not in {*board["method"]}:
        raise ValueError(unknown("method", reference, {*board["method"]}))
    sections = []
    named = board.assign(name=method_names(board), cell=cell_names(board))
    for number, (protocol, part) in enumerate(named.groupby(PROTOCOL, dropna=False, sort=True), 1):
        scores = part.pivot_table(index="cell", columns="name", values="primary", aggfunc="first")
        if scores.shape[1] < 2:
            continue
        stated = zip(PROTOCOL, map(_plain, protocol), strict=True)
        said = ", ".join(f"{what.replace('_', ' ')} {value}" for what, value in stated if value)
        suffix = f" ({said})" if said else ""
        sections.append(_ranks(compare(scores), suffix, f"ranks-{number}", figures))
        if reference is not None and reference in scores.columns:
            sections.append(
                Section(
                    CHAPTER,
                    f"{reference} against each other method{suffix}",
                    _rounded(against(scores, reference)),
                    (_AGAINST,),
                    key=f"against-{number}",
                )
            )
    return sections


def _plain(value: object) -> str:
    """A condition as text; empty for unknown and for data seed 0."""
    if isinstance(value, float):
        return f"{value:g}" if value > 0 else ""  # NaN is not
    return str(value)


_AGAINST = (
    "Wilcoxon's signed-rank test over the cells that both methods have, adjusted by Holm for the "
    "number of comparisons; differences in points, positive where the title's method is better."
)


def _ranks(comparison: Comparison, suffix: str, key: str, figures: bool) -> Section:
    ranks = pd.DataFrame(
        {
            "method": comparison.average_ranks.index,
            "average rank": [f"{rank:.2f}" for rank in comparison.average_ranks],
        }
    )
    for method, rates in comparison.win_rates.items():
        ranks[f"beats {method}"] = ["–" if pd.isna(rate) else f"{rate:.2f}" for rate in rates]
    cells = f"Cells compared: {'; '.join(comparison.scores.index)}."
    notes = (cells, *comparison.claims, *comparison.left_out, _WINS)
    figure = diagram(comparison) if figures and comparison.omnibus is not None else ""
    return Section(CHAPTER, f"Average ranks and win-rates{suffix}", ranks, notes, figure, key)


_WINS = "Win-rates: share of cells in which the row's method beats the column's, a tie being half."


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text, p-values to three digits."""
    digits = {"median_difference": 1, "p": 3, "p_holm": 3}
    shown = table.copy()
    for column, places in digits.items():
        shown[column] = [f"{value:.{places}f}" for value in table[column]]
    return shown.astype(str).rename(columns=lambda name: name.replace("_", " "))
