"""The tidy frame that every report starts from: a row per tested run, accuracies in percent.

It comes from the ledgers of a store, from anybody's CSV file, or from both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.groups import Evaluation
from harness.ledger import Ledger, Record
from harness.selection import LAST, RULES, best_look
from harness.space import one_line, unknown
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


def names_of(studies: Sequence[Study]) -> list[str]:
    """Methods by name, with the study where one is there twice (its code or --set was edited)."""
    methods = [study.method for study in studies]
    return [
        f"{study.method} {study.id[-8:]}" if methods.count(study.method) > 1 else study.method
        for study in studies
    ]


def metrics_of(runs: pd.DataFrame) -> list[str]:
    """The metric columns of a frame: whatever is not known to be something else."""
    return [c for c in runs.columns if c not in {*TEXT, *LABEL_USES, *NUMBERS, "collapsed"}]


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
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"cannot read the results {path}: {one_line(error)}") from None
    table.columns = table.columns.astype(str).str.strip()
    if missing := [c for c in ("dataset", "method", "seed") if c not in table.columns]:
        raise ValueError(f"{path} has no column {missing[0]}; it needs dataset, method and seed")
    for column in ("dataset", "method"):
        if (blank := table[column].isna()).any():
            raise ValueError(f"{path} row {int(blank.argmax()) + 2} has no {column}")
    if {"metric", "value"} <= {*table.columns}:
        table = _widen(table)
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
    if "status" not in table.columns:
        table["status"] = np.where(table["primary"].isna(), "failed", "finished")
        table["error"] = np.where(table["primary"].isna(), f"no {table.primary_metric[0]}", "")
    table["source"] = path.name
    return _complete(table)


def merged(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several frames as one."""
    filled = [frame for frame in frames if not frame.empty]
    return _complete(pd.concat(filled, ignore_index=True)) if filled else pd.DataFrame()


def _widen(table: pd.DataFrame) -> pd.DataFrame:
    """A column per metric; rows that repeat a metric of the same run stay apart."""
    keys = [c for c in table.columns if c not in ("metric", "value")]
    order = list(dict.fromkeys(table["metric"]))
    copy = table.groupby([*keys, "metric"], dropna=False).cumcount()
    wide = table.assign(_copy=copy).set_index([*keys, "_copy", "metric"])["value"].unstack("metric")
    return wide[order].reset_index().drop(columns="_copy").rename_axis(columns=None)


def _is_aggregate(name: str) -> bool:
    """Whether a column of this name belongs to a leaderboard, not to a run."""
    return name in ("n", "runs", "rank", "low", "high") or name.endswith("_std")


def _is_text(column: pd.Series[Any]) -> bool:
    """Whether a column holds remarks rather than a metric."""
    return bool(column.notna().any() and pd.to_numeric(column, errors="coerce").isna().all())


def _numbers(column: pd.Series[Any], path: Path, name: str) -> pd.Series[Any]:
    """The column as floats; what means nothing was measured is NaN."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    said = column.astype(str).str.strip().str.lower()
    wrong = numbers.isna() & column.notna() & ~said.isin(["", "nan", "na", "n/a", "none", "-", "–"])
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{path} row {row + 2}: {name} = {column.iloc[row]!r} is not a number")
    return numbers.where(np.isfinite(numbers))


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
