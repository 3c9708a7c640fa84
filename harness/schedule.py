"""Which piece of work is next, over all studies of a sweep.

A study's search comes before its confirm runs. Work that needs a stage which running work is about
to compute is held back while there is something else to do, instead of waiting on a core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from harness.ledger import Ledger, Record
from harness.plan import PlannedStage
from harness.proposals import Proposals, Wait
from harness.stages import StageStore
from harness.study import Study, Work

ATTEMPTS = 3
"""How often work is given out whose worker dies."""
INTERRUPTED = "interrupted"
"""Why a schedule is halted that somebody stopped."""


class Agenda(Protocol):
    """The work of one study, in order."""

    study: Study
    ledger: Ledger

    def next(self) -> Work | Wait | None:
        """The next piece of work; "wait" until results are in; None when all is given out."""

    def progress(self) -> tuple[int, int]:
        """Runs that are recorded, and runs in all."""


class Sweep:
    """An agenda: the search, then the winner's confirm runs.

    Args:
        study: The study.
        ledger: Its records; :meth:`Schedule.finished` appends to it.
        search: Its proposals.
        confirm_seeds: Fresh seeds for the winner.
    """

    def __init__(
        self, study: Study, ledger: Ledger, search: Proposals, confirm_seeds: Sequence[int]
    ) -> None:
        self.study, self.ledger, self.search = study, ledger, search
        self.confirm_seeds = confirm_seeds
        self._confirm: list[Work] | None = None

    def next(self) -> Work | Wait | None:
        """See :class:`Agenda`."""
        if self._confirm is None:
            work = self.search.next()
            if work is not None:
                return work
            if not self.search.finished:
                return "wait"
            self._confirm = self._confirmations()
        return self._confirm.pop(0) if self._confirm else None

    def progress(self) -> tuple[int, int]:
        """See :class:`Agenda`; a confirm run of an earlier winner does not count."""
        searches = self.search.trials * len(self.study.search_seeds)
        searched = min(len(self.ledger.of("search")), searches)
        winner = self.study.winner(self.ledger)
        confirmed = {r.seed for r in self.ledger.of("confirm") if r.number == winner}
        done = searched + len(confirmed & set(self.confirm_seeds))
        return done, searches + len(self.confirm_seeds)

    def _confirmations(self) -> list[Work]:
        winner = self.study.winner(self.ledger)
        if winner is None:
            return []
        first_seed = self.study.search_seeds[0]
        settings = self.ledger.records[f"search/{winner}/{first_seed}"].settings
        works = [
            Work(self.study.id, "confirm", winner, seed, settings) for seed in self.confirm_seeds
        ]
        return [work for work in works if work.key not in self.ledger.records]


class SingleRun:
    """An agenda: the study's base setting with one seed."""

    def __init__(self, study: Study, ledger: Ledger, seed: int) -> None:
        self.study, self.ledger = study, ledger
        self.work = Work(study.id, "train", 0, seed, study.base)
        self._given = self.work.key in ledger.records

    def next(self) -> Work | None:
        """See :class:`Agenda`."""
        given, self._given = self._given, True
        return None if given else self.work

    def progress(self) -> tuple[int, int]:
        """See :class:`Agenda`."""
        return int(self.work.key in self.ledger.records), 1


class Schedule:
    """Hands out the work of several agendas and takes in the records.

    Args:
        agendas: In the order of preference.
        plan_of: The stages a piece of work will call.
        stages: Where stage results appear.
    """

    def __init__(
        self,
        agendas: Sequence[Agenda],
        plan_of: Callable[[Work], list[PlannedStage]],
        stages: StageStore,
    ) -> None:
        self.agendas = {agenda.study.id: agenda for agenda in agendas}
        self.running: dict[str, Work] = {}
        self.halted = ""
        self._plan_of, self._stages = plan_of, stages
        self._next: dict[str, Work] = {}  # study -> work taken from its agenda and held back
        self._returned: list[Work] = []  # from workers that died
        self._losses: Counter[str] = Counter()
        self._plans: dict[str, list[PlannedStage]] = {}

    def next(self) -> Work | Wait | None:
        """The next piece of work; "wait" until something changes; None when all is done."""
        if self.halted:
            return None
        if self._returned:
            again = self._returned.pop()
            self.running[_name(again)] = again
            return again
        waiting = False
        for study, agenda in self.agendas.items():
            work = self._next.pop(study, None) or agenda.next()
            if work == "wait":
                waiting = True
            elif work is not None and self._is_held_back(work):
                self._next[study] = work
                waiting = True
            elif work is not None:
                self.running[_name(work)] = work
                return work
        # Work that is running may come back: its worker may die.
        return "wait" if waiting or self.running else None

    def has_work(self) -> bool:
        """Whether anything is left to be given out, before anything is running."""
        work = self.next()
        if isinstance(work, Work):
            del self.running[_name(work)]
            self._next[work.study] = work
        return work is not None

    def halt(self, reason: str) -> None:
        """Gives out nothing more, for a reason that is kept in `halted`; the first one counts."""
        self.halted = self.halted or reason

    def remaining(self) -> int:
        """Pieces of work that are not finished yet, running ones included."""
        progress = [agenda.progress() for agenda in self.agendas.values()]
        return sum(total - done for done, total in progress)

    def awaits(self, work: Work) -> bool:
        """Whether a piece of work has been given out and not come back."""
        return _name(work) in self.running

    def lost(self, work: Work) -> Record | None:
        """Takes back work whose worker died; it is given out again, three times in all.

        Returns:
            The failed record of work that is given up.
        """
        name = _name(work)
        del self.running[name]
        self._losses[name] += 1
        if self._losses[name] < ATTEMPTS:
            self._returned.append(work)
            return None
        return self.given_up(
            work, f"its worker died {ATTEMPTS} times; if memory runs out, lower --concurrency"
        )

    def given_up(self, work: Work, error: str, stack: str = "") -> Record:
        """Takes in that a piece of work has failed without a record of its own; returns one."""
        record = Record(
            work.role, work.number, work.seed, work.settings, "failed", error=error, traceback=stack
        )
        return self.finished(work.study, record)

    def finished(self, study: str, record: Record) -> Record:
        """Takes in the record of a piece of work; it is on disk when this returns it.

        Raises:
            OSError: It could not be written; the work counts as not done.
        """
        self.agendas[study].ledger.append(record)
        name = f"{study}/{record.key}"
        self.running.pop(name, None)
        self._plans.pop(name, None)
        return record

    def _is_held_back(self, work: Work) -> bool:
        """Whether running work is about to compute a stage that `work` needs."""
        missing = {s.key.key for s in self._plan(work) if not self._stages.holds(s.key)}
        return any(
            missing & {stage.key.key for stage in self._plan(other)}
            for other in self.running.values()
        )

    def _plan(self, work: Work) -> list[PlannedStage]:
        name = _name(work)
        known = self._plans.get(name)
        # A stage stored meanwhile tells the true keys of those downstream of it.
        if known is None or any(not s.stored and self._stages.holds(s.key) for s in known):
            self._plans[name] = self._plan_of(work)
        return self._plans[name]


def _name(work: Work) -> str:
    return f"{work.study}/{work.key}"
