"""The whole report: every section, in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from harness.study import Store, Study
from reports.comparisons import comparison_sections
from reports.flags import flag_sections
from reports.leaderboard import Failures, leaderboard, rankings
from reports.published import published_sections
from reports.rules import rule_sections
from reports.section import Section
from reports.sweeps import sweep_sections


class Report(NamedTuple):
    """What a report was made from and what it says."""

    runs: pd.DataFrame
    board: pd.DataFrame
    sections: list[Section]


def make_report(
    runs: pd.DataFrame,
    store: Store | None = None,
    studies: Sequence[Study] = (),
    failures: Failures = "leave-out",
    against: str | None = None,
    figures: bool = True,
    details: bool = True,
) -> Report:
    """All sections there is something to say in.

    Args:
        runs: The tidy frame.
        store: Where the studies are, for what only ledgers can tell: selection rules and sweeps.
        studies: Those to report on.
        failures: What becomes of failed runs.
        against: A method to be tested against each other one.
        figures: Whether to draw, which takes seconds.
        details: Whether to say how the sweeps went, which a terminal has no room for.

    Raises:
        ValueError: `against` is not among the methods.
    """
    board = leaderboard(runs, failures)
    sections = rankings(board, failures)
    if sections:
        sections += flag_sections(runs, failures)
        sections += comparison_sections(board, against, figures)
        if store is not None:
            sections += rule_sections(store, list(studies))
        sections += published_sections(board)
    if store is not None and details:
        sections += sweep_sections(store, list(studies), figures)
    return Report(runs, board, sections)
