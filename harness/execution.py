"""Running a schedule of work: what every executor shares, and the one that needs no cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.ledger import Record
from harness.schedule import Schedule
from harness.study import Store, Work
from harness.trial import ProgressFile, run_work


class Listener(Protocol):
    """What wants to know how work is going: the live table, the tracker."""

    def started(self, work: Work) -> None:
        """A piece of work was given to a worker."""

    def looked(self, work: Work, record: Record) -> None:
        """Its classifier was evaluated once more."""

    def finished(self, work: Work, record: Record) -> None:
        """Its record is in the ledger."""


@dataclass(frozen=True)
class Site:
    """Where work runs and what it reads.

    Attributes:
        concurrency: Pieces of work at once.
        gpus: Accelerators they share; 0 for a CPU sweep.
        address: An existing Ray cluster; None starts one here.
        time_limit: Seconds that one piece of work may take on Ray; None for any.
    """

    store: Store
    data_root: Path
    concurrency: int = 1
    gpus: int = 0
    address: str | None = None
    time_limit: float | None = None


def run_inline(schedule: Schedule, site: Site, listener: Listener) -> None:
    """Runs all work in this process, one piece after the other."""
    while isinstance(work := schedule.next(), Work):
        study = site.store.open(work.study)
        listener.started(work)
        progress = ProgressFile(site.store.progress_file(work.study, work.key))
        try:
            record = run_work(
                study, work, site.store, site.data_root, partial(listener.looked, work), progress
            )
        finally:
            progress.close()
        schedule.finished(work.study, record)
        listener.finished(work, record)
