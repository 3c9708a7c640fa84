"""What stands between a leaderboard and belief: failures, collapses, gaps, duplicates."""

from __future__ import annotations

import pandas as pd

from reports.leaderboard import (
    FAILURES,
    Failures,
    cell_names,
    duplicated,
    failed,
    suspect,
)
from reports.results import CONDITIONS
from reports.section import Section

CHAPTER = "What to know before believing it"
SHOWN = 50
"""Runs listed one by one; the rest is counted."""


def flag_sections(runs: pd.DataFrame, failures: Failures) -> list[Section]:
    """Lists and counts what is wrong with the runs; never empty, so that silence means checked."""
    if runs.empty:
        return []
    listed = pd.concat(
        [
            _listed(runs[failed(runs)], "failed"),
            _listed(runs[suspect(runs) & ~failed(runs)], "suspected failure"),
            _listed(runs[duplicated(runs)], "duplicate"),
        ]
    )
    counts = listed["what"].value_counts()
    said = ", ".join(f"{counts.get(what, 0)} {what}" for what in
                     ("failed", "suspected failure", "duplicate"))  # fmt: skip
    notes = [
        f"{len(runs)} runs: {said}. Here {FAILURES[failures]}; of duplicates the first counts."
    ]
    if len(listed) > SHOWN:
        notes.append(f"The first {SHOWN} of {len(listed)} are listed.")
    sections = [Section(CHAPTER, "Failures", listed[:SHOWN], tuple(notes), key="failures")]
    for key, title, table, note in (
        ("zero-groups", "Groups at exactly zero", _zero_groups(runs), _ZERO),
        ("seeds", "Missing seeds", _missing_seeds(runs), _SEEDS),
    ):
        if not table.empty:
            sections.append(Section(CHAPTER, title, table, (note,), key=key))
    return sections


_ZERO = (
    "Groups of the test split of which not one image is classified correctly, mean over seeds. "
    "With many small groups that is common for methods that follow the bias; in a few large ones "
    "it is a sign of collapse."
)
_SEEDS = (
    "Within a ranking these methods lack seeds that others have; their means are over other runs."
)


def _listed(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """One line per run, with the reason."""
    reasons = runs["error"].where(runs["error"] != "", runs["status"])
    if what == "suspected failure":
        reasons = runs["collapsed"].map({True: "one class predicted", False: "only zeros"})
    elif what == "duplicate":
        reasons = runs["source"].map("repeats an earlier row of {}".format)
    return pd.DataFrame(
        {
            "what": what,
            "data set": cell_names(runs),
            "method": runs["method"],
            "seed": _whole(runs["seed"]),
            "reason": reasons.str.split().str.join(" ").str.slice(0, 200),
        }
    )


def _zero_groups(runs: pd.DataFrame) -> pd.DataFrame:
    finished = runs[~failed(runs) & runs["groups"].notna()]
    means = finished.groupby([*CONDITIONS, "method", "study"], dropna=False, sort=True).agg(
        zero=("zero_groups", "mean"), groups=("groups", "first"), n=("seed", "size")
    )
    table = means[means["zero"] > 0].reset_index()
    return pd.DataFrame(
        {
            "data set": cell_names(table),
            "method": table["method"],
            "groups at zero": [
                f"{zero:.1f} of {groups:.0f}"
                for zero, groups in zip(table["zero"], table["groups"], strict=True)
            ],
            "n": table["n"].astype(str),
        }
    )


def _missing_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for _, part in runs.groupby(CONDITIONS, dropna=False, sort=True):
        cell = cell_names(part)[0]
        seeds = {method: {*own["seed"].dropna()} for method, own in part.groupby("method")}
        union = set().union(*seeds.values())
        for method, own in seeds.items():
            if missing := sorted(union - own):
                listed = ", ".join(f"{seed:g}" for seed in missing[:10])
                more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
                rows.append((cell, method, f"{listed}{more}"))
    return pd.DataFrame(rows, columns=["data set", "method", "missing seeds"])


def _whole(numbers: pd.Series[float]) -> list[str]:
    return ["–" if pd.isna(number) else f"{number:.0f}" for number in numbers]
