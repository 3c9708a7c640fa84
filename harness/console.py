"""What a person sees: tables, progress bars, the live view of a sweep. The only rich import."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # importing them would load torch, which `harness leaderboard` does without
    from harness.datasets.recipe import Progress as DataProgress
    from harness.ledger import Record
    from harness.schedule import Schedule
    from harness.study import Store, Work

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 140  # a file or a pipe has no width of its own


def say(text: str) -> None:
    """Prints one line, which may contain brackets."""
    console.print(Text(text), soft_wrap=True)


def show(frame: pd.DataFrame, title: str = "") -> None:
    """Prints a frame of text as a table."""
    if title:
        say(title)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for column in frame.columns:
        words = " ".join(map(str, [column, *frame[column]])).split()
        longest = max(map(len, words), default=1)
        table.add_column(str(column), overflow="fold", min_width=min(longest, 24))
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


@contextmanager
def data_progress() -> Iterator[DataProgress]:
    """A bar per phase while raw files are fetched and arrays are built."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, object] = {}

    def update(description: str, done: int, total: int) -> None:
        if description not in tasks:
            tasks[description] = bar.add_task(description, total=total)
            if not console.is_terminal:
                say(f"{description} …")
        bar.update(tasks[description], completed=done, total=total)  # type: ignore[arg-type]

    if console.is_terminal:
        with bar:
            yield update
    else:
        yield update


class SweepView:
    """A listener that shows a live table on a terminal and plain lines elsewhere."""

    def __init__(self, schedule: Schedule, store: Store) -> None:
        self.schedule, self.store = schedule, store
        self.began = time.monotonic()
        self.finished_here = 0
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> SweepView:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if console.is_terminal:
            self._live.stop()

    def started(self, work: Work) -> None:
        """A piece of work was given to a worker."""
        if not console.is_terminal:
            say(f"{_clock()} start {work.study} {_label(work)}")

    def looked(self, work: Work, record: Record) -> None:
        """Its classifier was evaluated once more."""

    def finished(self, work: Work, record: Record) -> None:
        """Its record is in the ledger."""
        self.finished_here += 1
        if not console.is_terminal or record.status == "failed":
            study = self.schedule.agendas[work.study].study
            outcome = record.error or f"{study.select} {_percent(study.value(record))}"
            where = f"{work.study} {_label(work)}"
            say(f"{_clock()} {record.status} {where}: {outcome} ({record.seconds:.0f} s)")
        for warning in record.warnings:
            say(f"{_clock()} warning {work.study} {_label(work)}: {warning}")

    def _render(self) -> Group:
        studies = _table("studies")
        for column in ("study", "runs", "failed", "best so far"):
            studies.add_column(column)
        for agenda in self.schedule.agendas.values():
            study, ledger = agenda.study, agenda.ledger
            done, total = agenda.progress()
            values, winner = study.trial_values(ledger), study.winner(ledger)
            best = "" if winner is None else f"{_percent(values[winner])} (trial {winner})"
            failed = sum(record.status == "failed" for record in ledger.records.values())
            studies.add_row(study.id, f"{done}/{total}", str(failed), best)
        running = _table("running")
        for column in ("study", "work", "stage", "step", "steps/s"):
            running.add_column(column)
        for work in list(self.schedule.running.values()):
            stage, done_steps, steps, rate = _progress(self.store, work)
            running.add_row(
                work.study,
                _label(work),
                stage,
                f"{done_steps}/{steps}" if steps else "",
                f"{rate:.1f}" if rate else "",
            )
        return Group(studies, running, Text(self._eta()))

    def _eta(self) -> str:
        """Time left at the pace of this sweep so far."""
        left = self.schedule.remaining()
        if not self.finished_here:
            return f"{left} runs to do"
        pace = (time.monotonic() - self.began) / self.finished_here
        return f"{left} runs to do, about {pace * left / 60:.0f} min at the pace so far"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _progress(store: Store, work: Work) -> tuple[str, int, int, float]:
    """What a worker wrote about itself last."""
    path = store.progress_file(work.study, work.key)
    try:
        stage, done, steps, rate = json.loads(path.read_text())
    except (OSError, ValueError):
        return "starting", 0, 0, 0.0
    return stage, done, steps, rate


def _label(work: Work) -> str:
    return f"{work.role} {work.number} seed {work.seed}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _clock() -> str:
    return time.strftime("%H:%M:%S")
