"""Which piece of work is next, over all studies of a sweep.

A study's search comes before its confirm runs. Work that needs a stage which running work is about
to compute is held back while there is something else to do, instead of waiting on a core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.ledger import Ledger, Record
from harness.plan import PlannedStage
from harness.proposals import Proposals, Wait
from harness.stages import StageStore
from harness.study import Study, Work


class Agenda:
    """The work of one study: its search, then the winner's confirm runs.

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
        """The next piece of work; "wait" until results are in; None when all is given out."""
        if self._confirm is None:
            work = self.search.next()
            if work is not None:
                return work
            if not self.search.finished:
                return "wait"
            self._confirm = self._confirmations()
        return self._confirm.pop(0) if self._confirm else None

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
        self._plan_of, self._stages = plan_of, stages
        self._next: dict[str, Work] = {}  # study -> work taken from its agenda and held back
        self._plans: dict[str, list[PlannedStage]] = {}

    def next(self) -> Work | Wait | None:
        """The next piece of work; "wait" until something changes; None when all is given out."""
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
        return "wait" if waiting else None

    def finished(self, study: str, record: Record) -> None:
        """Takes in the record of a piece of work; it is on disk when this returns."""
        self.agendas[study].ledger.append(record)
        name = f"{study}/{record.key}"
        self.running.pop(name, None)
        self._plans.pop(name, None)

    def _is_held_back(self, work: Work) -> bool:
        """Whether running work is about to compute a stage that `work` needs."""
        missing = {s.key.key for s in self._plan(work) if not self._stages.holds(s.key)}
        return any(
            missing & {stage.key.key for stage in self._plan(other)}
            for other in self.running.values()
        )

    def _plan(self, work: Work) -> list[PlannedStage]:
        name = _name(work)
        if name not in self._plans:
            self._plans[name] = self._plan_of(work)
        return self._plans[name]


def _name(work: Work) -> str:
    return f"{work.study}/{work.key}"
