"""Which setting a search tries next: Optuna's samplers, replayed from the ledger.

Trial n is proposed from the results of trials 0 … n - lookahead, told in order of their number,
whatever finished in the meantime. So the sequence of proposals depends on the results alone: not on
timing, not on how many trials run at once (at most `lookahead`), and not on interruptions. There is
no searcher state to save: a resumed sweep asks the same questions again and finds the answers in
the ledger.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from statistics import fmean
from typing import Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from harness.ledger import Ledger, Record
from harness.space import Choice, Integer, Log, Range, Scalar, Settings, Uniform, unknown
from harness.study import Study, Work

SEARCHERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=8),
    "random": lambda seed: RandomSampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # never asked: all its points are enqueued
}
Wait = Literal["wait"]


class Proposals:
    """The trials of a search, one unit of work (setting and seed) at a time.

    Args:
        study: Space, searcher and seeds.
        ledger: Results so far; the caller appends to it.
        trials: How many settings to try in all.
        lookahead: How many of the newest results a proposal must do without.
        deadline: `time.monotonic()` after which nothing new is proposed.

    Raises:
        ValueError: The ledger holds settings that this searcher would not have proposed.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        trials: int,
        lookahead: int,
        deadline: float = math.inf,
    ) -> None:
        self.study, self.ledger, self.lookahead = study, ledger, lookahead
        self.deadline = deadline
        if study.searcher not in SEARCHERS:
            raise ValueError(unknown("searcher", study.searcher, SEARCHERS))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna.create_study(
            direction="maximize", sampler=SEARCHERS[study.searcher](study.data_seed)
        )
        self._distributions = {n: distribution(r) for n, r in study.space.items()}
        base = {name: study.base[name] for name in study.space}
        # Optuna takes no value outside of its range, such as no weight decay on a log scale.
        self._base_is_in_space = all(holds(r, base[n]) for n, r in study.space.items())
        points = [base] if self._base_is_in_space else []
        self.trials = trials if study.space else 1
        if study.searcher == "grid":
            grid = [p for p in _grid(study.space, seed=study.data_seed) if p != base]
            points += grid
            self.trials = min(self.trials, 1 + len(grid))
        for point in points:
            self._optuna.enqueue_trial(point)
        self._asked: list[optuna.Trial | None] = []  # None: the base setting outside of the space
        self._told = 0
        self._works: list[Work] = []
        # Asking again for what is known takes up to 11 ms a trial.
        self._recorded = all(
            f"search/{number}/{seed}" in ledger.records
            for number in range(self.trials)
            for seed in study.search_seeds
        )

    def next(self) -> Work | Wait | None:
        """The next piece of work; "wait" until results are in; None when all is proposed."""
        while not self._works:
            if self._all_asked():
                return None
            if not self._tell_up_to(len(self._asked) - self.lookahead):
                return "wait"
            self._works = [w for w in self._ask() if w.key not in self.ledger.records]
        return self._works.pop(0)

    @property
    def finished(self) -> bool:
        """Whether nothing more will be proposed and all results are in."""
        if self._recorded:
            return True
        everything_proposed = not self._works and self._all_asked()
        return everything_proposed and self._tell_up_to(len(self._asked) - 1)

    def _all_asked(self) -> bool:
        late = time.monotonic() > self.deadline
        return self._recorded or late or len(self._asked) >= self.trials

    def _ask(self) -> list[Work]:
        number = len(self._asked)
        outside = number == 0 and not self._base_is_in_space
        trial = None if outside else self._optuna.ask(self._distributions)
        self._asked.append(trial)
        settings = self.study.base | (trial.params if trial else {})
        works = [
            Work(self.study.id, "search", number, seed, settings)
            for seed in self.study.search_seeds
        ]
        for work in works:
            recorded = self.ledger.records.get(work.key)
            if recorded is not None and recorded.settings != settings:
                raise ValueError(
                    f"study {self.study.id} cannot be continued: trial {number} is recorded with "
                    f"other settings than optuna {optuna.__version__} proposes. Use the optuna "
                    "version of its study.json, or --fresh to start over"
                )
        return works

    def _tell_up_to(self, last: int) -> bool:
        """Tells trials in order of number; False if one of them has not finished yet."""
        while self._told <= last:
            keys = [f"search/{self._told}/{seed}" for seed in self.study.search_seeds]
            records = [self.ledger.records[k] for k in keys if k in self.ledger.records]
            if len(records) < len(keys):
                return False
            self._tell(self._asked[self._told], records)
            self._told += 1
        return True

    def _tell(self, trial: optuna.Trial | None, records: list[Record]) -> None:
        if trial is None:
            return
        statuses = {record.status for record in records}
        if "failed" in statuses:
            self._optuna.tell(trial, state=TrialState.FAIL)
            return
        for step in range(min(len(record.looks) for record in records)):
            trial.report(fmean(self.study.value(record, step) for record in records), step)
        value = fmean(self.study.value(record) for record in records)
        if not math.isfinite(value):
            self._optuna.tell(trial, state=TrialState.FAIL)
        elif "stopped" in statuses:
            self._optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self._optuna.tell(trial, value)


def distribution(search: Range) -> BaseDistribution:
    """Optuna's form of a range."""
    match search:
        case Uniform():
            return FloatDistribution(search.low, search.high)
        case Log():
            return FloatDistribution(search.low, search.high, log=True)
        case Integer():
            return IntDistribution(search.low, search.high)
        case Choice():
            return CategoricalDistribution(search.values)


def holds(search: Range, value: Scalar) -> bool:
    """Whether Optuna could propose a value of a range."""
    if isinstance(search, Choice):
        return value in search.values
    return isinstance(value, int | float) and search.low <= value <= search.high


def _grid(space: dict[str, Range], seed: int) -> list[Settings]:
    """All combinations in a seeded random order, so that a part of them is spread out."""
    axes = [[(name, value) for value in search.grid()] for name, search in space.items()]
    points = [dict(point) for point in itertools.product(*axes)]
    random.Random(seed).shuffle(points)
    return points
