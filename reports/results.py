"""The tidy frame that every report starts from: a row per tested run, accuracies in percent.

It comes from the ledgers of a store, from anybody's CSV file, or from both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.csv_file import read_columns
from harness.groups import Evaluation
from harness.ledger import Ledger, Record
from harness.selection import LAST, RULES, best_look
from harness.space import unknown
from harness.study import Store, Study

CONDITIONS = ["dataset", "ratio", "preset", "selection", "checkpoint", "data_seed"]
"""Results that differ in one of these are never ranked together; unknown differs from known."""

THIS_STORE = "this store"
"""Source of what does not come from a file."""

METRICS = {
    "unbiased": "",  # depends on the data set: see harness.study.Metrics
    "aligned": "aligned_accuracy",
    "conflicting": "conflicting_accuracy",
    "worst_group": "worst_group_accuracy",
    "worst_class": "worst_class_accuracy",
}
"""Column -> metric of the group table."""

TEXT = ["dataset", "preset", "selection", "checkpoint", "method", "study", "status", "error"]
TEXT += ["backbone", "weights", "source", "primary_metric"]
LABEL_USES = ["bias_labels_in_training", "bias_labels_in_selection"]
"""Text too: yes, no, or empty for unknown."""
NUMBERS = ["ratio", "data_seed", "seed", "primary", "density", "parameters", "parameters_kept"]
NUMBERS += ["seconds", "search_seconds", "trials", "groups", "zero_groups"]


NOT_METRICS = {*TEXT, *LABEL_USES, *NUMBERS, "collapsed"}

REQUIRED = ("dataset", "method", "seed")
"""Columns that a file must have."""

STATUSES = ("finished", "stopped", "failed")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NOTHING = {"", "nan", "na", "n/a", "none", "null", "-", "–", "inf", "+inf", "-inf", "infinity"}
"""Cells that say, in lower case, that there is no result."""


def names_of(studies: Sequence[Study]) -> list[str]:
    """Methods by name, with the study where one is there twice (its code or --set was edited)."""
    methods = [study.method for study in studies]
    return [
        f"{study.method} {study.id[-8:]}" if methods.count(study.method) > 1 else study.method
        for study in studies
    ]


def metrics_of(runs: pd.DataFrame) -> list[str]:
    """The metric columns of a frame: whatever is not known to be something else."""
    return [c for c in runs.columns if c not in NOT_METRICS]


def from_store(
    store: Store, studies: Sequence[Study] | None = None, checkpoint: str = LAST
) -> pd.DataFrame:
    """One row per confirm run of each study's winner, failed ones included.

    Args:
        store: Where the ledgers are.
        studies: The studies to read; None for all.
        checkpoint: Rule that picks the look of a run whose test result is reported.

    Returns:
        The columns TEXT, LABEL_USES, NUMBERS, collapsed and METRICS; empty without results.
    """
    rows = []
    for study in store.studies() if studies is None else studies:
        ledger = store.ledger(study.id)
        winner = study.winner(ledger)
        confirm = [record for record in ledger.of("confirm") if record.number == winner]
        shared = _facts(study, ledger, checkpoint) if confirm else {}
        metrics = store.metrics(study.id) if confirm else None
        for record in confirm:
            row = shared | _identity(record)
            if record.status == "finished" and metrics:
                look = best_look(record, checkpoint, study.aligned)
                if "test" in record.looks[look].correct:
                    test = record.evaluation("test", study.aligned, look)
                    row |= _measured(test, metrics.primary, metrics.unbiased)
                else:  # harness 0.1 tested the last look only
                    row |= {"error": f"not tested at the checkpoint that {checkpoint} picks"}
            rows.append(row)
    return _complete(pd.DataFrame(rows))


def _facts(study: Study, ledger: Ledger, checkpoint: str) -> dict[str, Any]:
    """What all confirm runs of a study share."""
    search = ledger.of("search")
    return {
        "source": THIS_STORE,
        "dataset": study.dataset,
        "ratio": study.ratio,
        "preset": study.regime,
        "selection": study.select,
        "checkpoint": checkpoint,
        "data_seed": study.data_seed,
        "method": study.method,
        "study": study.id,
        "search_seconds": sum(record.seconds for record in search),
        "trials": len({record.number for record in search}),
        "bias_labels_in_selection": RULES[study.select].needs_bias_labels,
    }


def _identity(record: Record) -> dict[str, Any]:
    return {
        "seed": record.seed,
        "status": record.status,
        "error": record.error,
        "backbone": record.settings.get("backbone.arch", ""),
        "weights": record.settings.get("backbone.weights", ""),
        "density": record.metrics.get("density", 1.0),
        "parameters": record.metrics.get("parameters", math.nan),
        "parameters_kept": record.metrics.get("parameters_kept", math.nan),
        "seconds": record.seconds,
        "bias_labels_in_training": record.uses_bias_labels,
    }


def _measured(test: Evaluation, primary: str, unbiased: str) -> dict[str, Any]:
    metrics = test.metrics()
    filled = test.total > 0
    return {
        "primary": 100 * metrics[primary],
        "primary_metric": primary,
        **{column: 100 * metrics[name or unbiased] for column, name in METRICS.items()},
        # Who answers with one class is right on samples of that class alone.
        "collapsed": len(test.total) > 1 and int((test.correct.sum(axis=1) > 0).sum()) <= 1,
        "groups": int(filled.sum()),
        "zero_groups": int((filled & (test.correct == 0)).sum()),
    }


def from_csv(path: Path, metric: str | None = None) -> pd.DataFrame:
    """Anybody's results: columns dataset, method, seed and metrics, long or wide.

    Long files have the columns `metric` and `value`, wide ones a column per metric. The other
    columns of this frame are taken where the file has them and are unknown otherwise; a column of
    text alone is no metric, nor is one such as rank or acc_std. Higher is taken as better. A metric
    whose values all lie in [0, 1] is read as a share, not as percent.

    Args:
        path: The file.
        metric: The one to rank by; None for `unbiased`, or the first there is.

    Raises:
        ValueError: The file cannot be read as such; says what is missing, or the row.
    """
    table = _text(path)
    if missing := [c for c in REQUIRED if c not in table.columns]:
        raise ValueError(f"{path} has no column {missing[0]}; it needs dataset, method and seed")
    if table.empty:
        raise ValueError(f"{path} has no results below its header")
    for column in REQUIRED:
        if (blank := table[column] == "").any():
            raise ValueError(f"{path} row {blank.idxmax()} has no {column}")
    _check_seeds(table["seed"], path)
    if {"metric", "value"} <= {*table.columns}:
        table = _widen(table, path)
    no_metrics = [c for c in metrics_of(table) if _is_aggregate(c) or _is_text(table[c])]
    table = table.drop(columns=no_metrics)
    given = [c for c in metrics_of(table) if c not in METRICS] + [c for c in METRICS if c in table]
    for column in [*given, *(c for c in NUMBERS if c in table.columns)]:
        table[column] = _numbers(table[column], path, column)
    for column in given:
        if table[column].max() <= 1 and table[column].min() >= 0 and (table[column] > 0).any():
            table[column] *= 100
    known = [column for column in given if table[column].notna().any()]
    if metric is not None and metric not in known:
        raise ValueError(unknown("metric", metric, known))
    if not known and "primary" not in table.columns:
        raise ValueError(f"{path} has no metric: a column of numbers besides dataset, method, seed")
    if metric is not None or "primary" not in table.columns:
        chosen = metric or ("unbiased" if "unbiased" in known else known[0])
        table = table.assign(primary=table[chosen], primary_metric=chosen)
    elif "primary_metric" not in table.columns:
        table["primary_metric"] = "primary"
    if "status" not in table.columns:
        table["status"] = np.where(table["primary"].isna(), "failed", "finished")
        reason = f"no {table['primary_metric'].iloc[0]}"
        table["error"] = np.where(table["primary"].isna(), reason, "")
    elif not (fits := table["status"].isin(STATUSES)).all():
        said = table["status"].iloc[int(fits.argmin())]
        raise ValueError(
            f"{path} row {fits.idxmin()}: status = {said!r} is none of {', '.join(STATUSES)}"
        )
    table["source"] = path.name
    return _complete(table.reset_index(drop=True))


def _text(path: Path) -> pd.DataFrame:
    """The cells of a file as text without blanks around it; the index is the line of each row."""
    columns = read_columns(path)
    cells = {name: [cell.strip() for cell in each] for name, each in columns.cells.items()}
    return pd.DataFrame(cells, index=columns.lines, dtype=object)


def _check_seeds(column: pd.Series[Any], path: Path) -> None:
    """Refuses seeds that two different spellings could turn into one."""
    for row, seed in column.items():
        value = float(seed) if _NUMBER.fullmatch(seed) else math.nan
        if not math.isnan(value) and not (value.is_integer() and abs(value) <= 2**53):
            raise ValueError(f"{path} row {row}: seed = {seed!r} is not a whole number below 2^53")


def merged(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several frames as one."""
    filled = [frame for frame in frames if not frame.empty]
    return _complete(pd.concat(filled, ignore_index=True)) if filled else pd.DataFrame()


def _widen(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A column per metric; rows that repeat a metric of the same run stay apart."""
    if (blank := table["metric"] == "").any():
        raise ValueError(f"{path} row {blank.idxmax()} has no metric")
    order = list(dict.fromkeys(table["metric"]))
    if taken := [name for name in order if name in table.columns or name in NOT_METRICS]:
        row = (table["metric"] == taken[0]).idxmax()
        raise ValueError(f"{path} row {row}: a metric cannot be called {taken[0]}, as a column is")
    for name, values in table.groupby("metric")["value"]:
        if not _is_text(values):
            _numbers(values, path, str(name))  # here, where the rows are still those of the file
    keys = [c for c in table.columns if c not in ("metric", "value")]
    copy = table.groupby([*keys, "metric"], dropna=False).cumcount()
    wide = table.assign(_copy=copy).set_index([*keys, "_copy", "metric"])["value"].unstack("metric")
    wide = wide[order].reset_index().drop(columns="_copy").rename_axis(columns=None)
    return wide.fillna("")


def _is_aggregate(name: str) -> bool:
    """Whether a column of this name belongs to a leaderboard, not to a run."""
    return name in ("n", "runs", "rank", "low", "high") or name.endswith("_std")


def _is_text(column: pd.Series[Any]) -> bool:
    """Whether a column holds remarks rather than a metric."""
    said = [cell for cell in column if cell.lower() not in _NOTHING]
    return bool(said) and not any(map(_NUMBER.fullmatch, said))


def _numbers(column: pd.Series[Any], path: Path, name: str) -> pd.Series[Any]:
    """The column as floats, each nearest to its text; NaN where nothing was measured."""
    numbers = []
    for row, cell in column.items():
        value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if math.isinf(value) or (math.isnan(value) and cell.lower() not in _NOTHING):
            raise ValueError(f"{path} row {row}: {name} = {cell!r} is not a number")
        numbers.append(value)
    return pd.Series(numbers, index=column.index, dtype=float)


def _complete(runs: pd.DataFrame) -> pd.DataFrame:
    """All columns, in order and with their types; unknown text is empty, unknown numbers NaN."""
    if runs.empty:
        return pd.DataFrame()
    measured = [*METRICS, *(c for c in metrics_of(runs) if c not in METRICS)]
    runs = runs.reindex(columns=[*TEXT, *LABEL_USES, *NUMBERS, "collapsed", *measured])
    runs[TEXT] = runs[TEXT].astype(object).fillna("").astype(str)
    runs[[*NUMBERS, *measured]] = runs[[*NUMBERS, *measured]].astype(float)
    for column in LABEL_USES:
        said = runs[column].astype(str).str.strip().str.lower()
        runs[column] = said.map(_YES_NO).fillna("")
    runs["collapsed"] = runs["collapsed"].astype(str).str.strip().str.lower().map(_YES_NO) == "yes"
    return runs


_YES_NO = {"true": "yes", "yes": "yes", "1": "yes", "false": "no", "no": "no", "0": "no"}
