"""What the ledgers of sweeps hold, as frames: trials, settings, mined sets, looks, stages.

Of search runs this reads validation splits alone; test results are those of confirm runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.ledger import Ledger, Record
from harness.study import Metrics, Store, Study
from reports.results import names_of


class Sweep(NamedTuple):
    """One study, read; its name is the method's, with a digest where a group has it twice."""

    name: str
    study: Study
    ledger: Ledger
    metrics: Metrics

    @property
    def trials(self) -> dict[int, list[Record]]:
        """Trial number -> its records, one per search seed so far."""
        records = groupby(self.ledger.of("search"), lambda record: record.number)
        return {number: list(group) for number, group in records}


def sweep_groups(store: Store, studies: Sequence[Study]) -> list[list[Sweep]]:
    """The studies with search trials, by data set, ratio, regime, rule and data seed; sorted."""
    ordered = sorted(studies, key=lambda study: (*_cell(study), study.method, study.id))
    groups = [_open(store, list(group)) for _, group in groupby(ordered, _cell)]
    return [group for group in groups if group]


def _cell(study: Study) -> tuple[str, float, str, str, int]:
    return study.dataset, study.ratio, study.regime, study.select, study.data_seed


def _open(store: Store, group: list[Study]) -> list[Sweep]:
    sweeps = [
        Sweep(name, study, store.ledger(study.id), store.metrics(study.id))
        for name, study in zip(names_of(group), group, strict=True)
    ]
    return [sweep for sweep in sweeps if sweep.ledger.of("search")]


def trial_frame(sweep: Sweep) -> pd.DataFrame:
    """One row per search trial, in the order tried.

    Returns:
        name, number, tried (trials so far), status, score (validation value of the study's rule
        in percent, NaN unless all seeds finished), best (score so far), seconds (over all seeds),
        elapsed (seconds so far) and density (percent, mean over seeds, NaN if it has none).
    """
    values = sweep.study.trial_values(sweep.ledger)
    rows = [
        {
            "name": sweep.name,
            "number": number,
            "status": _status(records, number in values),
            "score": 100 * values.get(number, math.nan),
            "seconds": sum(record.seconds for record in records),
            "density": 100 * np.mean([r.metrics.get("density", math.nan) for r in records]),
        }
        for number, records in sweep.trials.items()
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(
        tried=range(1, len(frame) + 1),
        best=frame["score"].cummax().ffill(),
        elapsed=frame["seconds"].cumsum(),
    )


def _status(records: list[Record], has_score: bool) -> str:
    statuses = {record.status for record in records}
    for status in ("failed", "stopped"):
        if status in statuses:
            return status
    return "finished" if has_score else "unfinished"


def best_of_k(values: Sequence[float]) -> pd.DataFrame:
    """Expected best of k of the given values, drawn at random without replacement, for every k.

    Dodge et al., EMNLP 2019 (arXiv:1909.03004). Departure: they draw with replacement, which is
    biased downward (Tang et al., ACL 2020, arXiv:2004.13705); here the distribution of the maximum
    is exact, P(max <= i-th smallest) = C(i, k) / C(n, k).

    Returns:
        k from 1 to n, expected, and low and high, the 5 % and 95 % quantiles of the maximum.
    """
    ascending = np.sort(np.asarray(values, dtype=float))
    n = len(ascending)
    rank = np.arange(1, n + 1)
    at_most = np.ones(n)  # P(max <= value), by rank
    rows = []
    for k in range(1, n + 1):
        at_most = at_most * np.maximum(rank - k + 1, 0) / (n - k + 1)
        expected = np.diff(at_most, prepend=0.0) @ ascending
        # Rounding errors must not push a quantile to the next value.
        low, high = (ascending[np.argmax(at_most >= q - 1e-12)] for q in (0.05, 0.95))
        rows.append((k, expected, low, high))
    return pd.DataFrame(rows, columns=["k", "expected", "low", "high"])


def setting_frame(sweep: Sweep) -> pd.DataFrame:
    """A column per searched hyperparameter and a row per trial with a score, which is the index."""
    trials, values = sweep.trials, sweep.study.trial_values(sweep.ledger)
    names = list(sweep.study.space)
    rows = [[trials[number][0].settings[name] for name in names] for number in values]
    scores = [100 * value for value in values.values()]
    return pd.DataFrame(rows, pd.Index(scores, name="score"), names)


def mining_frame(sweep: Sweep) -> pd.DataFrame:
    """One row per run that mined.

    Returns:
        name, role, number, seed, size, and precision and recall in percent; an empty set has no
        precision (NaN).
    """
    runs = [*sweep.ledger.of("search"), *sweep.ledger.of("confirm")]
    rows = [
        (
            *(sweep.name, run.role, run.number, run.seed, run.metrics["mining/size"]),
            *(100 * run.metrics[f"mining/{name}"] for name in ("precision", "recall")),
        )
        for run in runs
        if "mining/size" in run.metrics
    ]
    columns = ["name", "role", "number", "seed", "size", "precision", "recall"]
    return pd.DataFrame(rows, columns=columns)


def learning_frame(sweep: Sweep) -> pd.DataFrame:
    """Test accuracy at every look of the winner's confirm runs.

    Returns:
        name, seed, step, seconds, and unbiased and conflicting, in percent.
    """
    rows = []
    for run in sweep.study.confirmed(sweep.ledger):
        for number, look in enumerate(run.looks):
            if "test" not in look.correct:  # harness 0.1 tested the last look only
                continue
            test = run.evaluation("test", sweep.study.aligned, number).metrics()
            scores = test[sweep.metrics.unbiased], test["conflicting_accuracy"]
            rows.append((sweep.name, run.seed, look.step, look.seconds, *(100 * s for s in scores)))
    return pd.DataFrame(
        rows, columns=["name", "seed", "step", "seconds", "unbiased", "conflicting"]
    )


def stage_frame(sweep: Sweep) -> pd.DataFrame:
    """How often each stage was computed and reused, over all runs of a study.

    Returns:
        name, stage, computed, reused, and saved (seconds that reuse spared).
    """
    uses = [stage for record in sweep.ledger.records.values() for stage in record.stages]
    frame = pd.DataFrame(uses, columns=["name", "seconds", "reused"])
    frame = frame.astype({"seconds": float, "reused": bool})
    frame["computed"] = ~frame["reused"]
    frame["saved"] = frame["seconds"].where(frame["reused"], 0.0)
    table = frame.groupby("name", sort=True)[["computed", "reused", "saved"]].sum()
    table = table.rename_axis("stage").reset_index()
    table.insert(0, "name", sweep.name)
    return table
