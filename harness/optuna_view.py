"""Optuna's view of the studies: a storage for optuna-dashboard, and hyperparameter importance.

Both are derived from the ledgers and can be made anew at any time; nothing reads them back.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.disk import replace_atomically
from harness.ledger import Ledger, Record
from harness.proposals import distribution, holds
from harness.study import Store, Study

IMPORTANCE = "PED-ANOVA"
"""Watanabe et al., IJCAI 2023 (arXiv:2304.10255), as Optuna has it."""
GOOD = 0.5
"""Share of the trials that PED-ANOVA contrasts with all.

Departure: Optuna's default of 0.1 is one trial of ten, and its shares are then those of chance.
"""
MIN_TRIALS = 4
"""Fewest finished trials that importances are computed from."""


def to_optuna(study: Study, ledger: Ledger, storage: BaseStorage | None = None) -> optuna.Study:
    """The search of a study as an Optuna study: the same trial numbers, values in [0, 1].

    A trial is FAIL where a seed failed, PRUNED where one was stopped, WAITING where seeds have not
    been recorded. Intermediate values are those of the looks, by step. Of a first trial outside of
    the ranges, the values that no distribution holds are user attributes instead of parameters.
    Nothing of the test split is shown.

    Args:
        study: The study.
        ledger: Its records.
        storage: Where to write it, under the study's id; None for memory.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    view = optuna.create_study(storage=storage, study_name=study.id, direction="maximize")
    view.set_user_attr("value", f"rule {study.select}, mean over seeds {list(study.search_seeds)}")
    for name in ("method", "dataset", "ratio", "preset", "data_seed", "searcher", "scheduler"):
        view.set_user_attr(name, getattr(study, name))
    trials: dict[int, list[Record]] = {}
    for record in ledger.of("search"):
        trials.setdefault(record.number, []).append(record)
    for number in range(max(trials, default=-1) + 1):
        view.add_trial(_trial(study, number, trials.get(number, [])))
    return view


def write_storage(store: Store, studies: Sequence[Study]) -> None:
    """Writes `optuna.journal` anew, with one Optuna study per study, by its id.

    It takes the place of the old file at once, and equal ledgers give equal bytes. An open
    optuna-dashboard shows the new file once it is started again.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with FileLock(store.optuna_journal.with_suffix(".lock")):  # the last to write read last, too
        replace_atomically(store.optuna_journal, journal(store, studies))


def journal(store: Store, studies: Sequence[Study]) -> bytes:
    """What :func:`write_storage` writes."""
    logs = _Logs()
    storage = JournalStorage(logs)
    for study in studies:
        to_optuna(study, store.ledger(study.id), storage)
    return logs.text().encode()


def importances(study: Study, ledger: Ledger) -> dict[str, float] | None:
    """Share of each hyperparameter in what sets the better half of the trials apart, highest first.

    PED-ANOVA, from the finished trials that lie within the ranges. Deterministic. With few trials
    it is a hint: of four equally searched hyperparameters the one that matters most came first in
    6 of 10 simulated searches with 8 trials, in 9 of 10 with 20.

    Returns:
        Shares that sum to 1; None where fewer than MIN_TRIALS trials finished, or no setting of
        theirs stands out.
    """
    # Loads scikit-learn, which takes long.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    distributions = {name: distribution(search) for name, search in study.space.items()}
    settings = {record.number: record.settings for record in ledger.of("search")}
    trials = []
    for number, value in study.trial_values(ledger).items():
        params = {name: settings[number][name] for name in study.space}
        if all(holds(study.space[name], setting) for name, setting in params.items()):
            trials.append(create_trial(value=value, params=params, distributions=distributions))
    if len(trials) < MIN_TRIALS:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    inside = optuna.create_study(direction="maximize")
    inside.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that values are equal, and so does what we return
        shares = get_param_importances(
            inside,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=GOOD),
            params=list(study.space),  # Optuna's own order is that of a set
            normalize=False,
        )
    total = sum(shares.values())
    ordered = sorted(study.space, key=lambda name: -shares[name])
    return {name: shares[name] / total for name in ordered} if total > 0 else None


def _trial(study: Study, number: int, records: list[Record]) -> FrozenTrial:
    state, value = _outcome(study, records)
    settings = records[0].settings if records else {}
    searched = {name: settings[name] for name in study.space if name in settings}
    held = {name: v for name, v in searched.items() if holds(study.space[name], v)}
    outside = {name: value for name, value in searched.items() if name not in held}
    began, ended = _span(records)
    return FrozenTrial(
        number=number,
        trial_id=number,  # the storage gives its own
        state=state,
        value=value,
        datetime_start=began if records else None,
        datetime_complete=ended if state.is_finished() else None,
        params=held,
        distributions={name: distribution(study.space[name]) for name in held},
        user_attrs=_attributes(records) | outside,
        system_attrs={},
        intermediate_values=_looks(study, records),
    )


def _outcome(study: Study, records: list[Record]) -> tuple[TrialState, float | None]:
    """State and value, as the searcher was told them."""
    if len(records) < len(study.search_seeds):
        return TrialState.WAITING, None
    statuses = {record.status for record in records}
    value = math.nan if "failed" in statuses else fmean(study.value(r) for r in records)
    if not math.isfinite(value):
        return TrialState.FAIL, None
    return (TrialState.PRUNED if "stopped" in statuses else TrialState.COMPLETE), value


def _looks(study: Study, records: list[Record]) -> dict[int, float]:
    """Step -> mean value, for the looks that all seeds have."""
    shared = min((len(record.looks) for record in records), default=0)
    values = {
        records[0].looks[look].step: fmean(study.value(record, look) for record in records)
        for look in range(shared)
    }
    return {step: value for step, value in values.items() if math.isfinite(value)}


def _span(records: list[Record]) -> tuple[datetime | None, datetime | None]:
    """When the first seed began and the last ended, taking compute seconds for time."""
    if not records:
        return None, None
    begun = [_moment(record.started) for record in records]
    ended = (b + timedelta(seconds=r.seconds) for b, r in zip(begun, records, strict=True))
    return min(begun), max(ended)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)


def _attributes(records: list[Record]) -> dict[str, Any]:
    return {
        "seeds": [record.seed for record in records],
        "seconds": round(sum(record.seconds for record in records), 3),
        "errors": [record.error for record in records if record.error],
    }


class _Logs(BaseJournalBackend):
    """A journal in memory, to be written at once; Optuna's own locks and flushes at each line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log) for log in logs]

    def text(self) -> str:
        """The file, signed with a name of our own, as Optuna's is random."""
        logs = (json.loads(line) | {"worker_id": "harness"} for line in self.lines)
        return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
