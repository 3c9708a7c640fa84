"""The record of finished work: an append-only file per study that everything else is derived from.

Resuming, reports and MLflow read it; Optuna's proposals are replayed from it. One JSON line is one
method trained with one setting and one seed, sealed with a digest of itself. A line is complete
when it ends in a newline; a torn last line (the process died while writing) is dropped.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import TypeAdapter

from harness.disk import is_sealed, seal, sync_folder, unseal, write_all
from harness.groups import Evaluation
from harness.space import Settings, one_line

VERSION = 2
"""Of the files in a store; a newer one is refused. Version 1 had no seals and is read as well."""

Role = Literal["search", "confirm", "train"]


@dataclass(frozen=True)
class Look:
    """One evaluation of the classifier during training.

    Attributes:
        step: Training steps of the last phase done so far.
        seconds: Compute seconds so far, reused stages credited, evaluation excluded.
        correct: Split name -> correct predictions per (label, attribute) cell.
    """

    step: int
    seconds: float
    correct: dict[str, list[list[int]]]


@dataclass(frozen=True)
class Record:
    """One method trained with one setting and one seed.

    Attributes:
        number: Trial number within the search; the winner's for confirm runs.
        status: finished, stopped (by the scheduler) or failed.
        total: Split name -> samples per (label, attribute) cell.
        looks: Every evaluation, in order; the last is the method's result.
        metrics: Scalars the method logged.
        stages: Name, key, seconds and whether it was reused, per stage.
        seconds: Compute seconds, reused stages credited, evaluation excluded.
        warnings: What it warned of, such as an empty mined set.
        error: Why it failed; empty otherwise.
    """

    role: Role
    number: int
    seed: int
    settings: Settings
    status: Literal["finished", "stopped", "failed"]
    total: dict[str, list[list[int]]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    started: str = ""
    uses_bias_labels: bool = False
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    traceback: str = ""

    @property
    def key(self) -> str:
        """Identity within the study."""
        return f"{self.role}/{self.number}/{self.seed}"

    @property
    def open_splits(self) -> list[str]:
        """The splits whose results may be shown: the test split of a search run is sealed."""
        return [split for split in self.total if self.role != "search" or split != "test"]

    def open_results(self, look: Look) -> dict[str, list[list[int]]]:
        """What a look counted on the open splits, of which it may have evaluated some only."""
        return {split: look.correct[split] for split in self.open_splits if split in look.correct}

    def evaluation(self, split: str, aligned: list[list[bool]], look: int = -1) -> Evaluation:
        """The group table of one split at one look.

        Raises:
            KeyError: The split was not evaluated then.
        """
        return Evaluation(
            np.array(self.looks[look].correct[split]),
            np.array(self.total[split]),
            np.array(aligned, dtype=bool),
        )

    @staticmethod
    def from_json(data: dict[str, Any]) -> Record:
        """Reads one ledger line."""
        looks = [Look(**look) for look in data.pop("looks")]
        return Record(looks=looks, **data)


class Ledger:
    """The records of one study, by key; the file is the truth and this its image.

    Attributes:
        records: By key.
        values: What :meth:`Study.trial_values` has computed of them, by key; the live table of a
            sweep and every section of a report ask for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, float] = {}
        with _collector_paused():
            self.records = {record.key: record for record in _read(path)}

    def append(self, record: Record) -> None:
        """Adds a record durably: it is on disk when this returns.

        Raises:
            OSError: It could not be written; the file is as it was.
        """
        line = seal(dataclasses.asdict(record)) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        first = not self.path.exists()
        with self.path.open("ab+", buffering=0) as file:
            end = _drop_torn_line(file)
            try:
                write_all(file.fileno(), line.encode())
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                error.filename = error.filename or str(self.path)
                raise
        if first:
            sync_folder(self.path.parent)
        self.records[record.key] = record
        self.values.pop(record.key, None)

    def of(self, role: Role) -> list[Record]:
        """All records of a role, in the order of trial number and seed."""
        chosen = (r for r in self.records.values() if r.role == role)
        return sorted(chosen, key=lambda r: (r.number, r.seed))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps Python from searching all records for cycles, of which they have none, as they grow.

    Otherwise that takes most of the time of reading, and of what follows.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()


def _read(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn or empty
    for number, line in enumerate(lines, 1):
        try:
            yield _record(line.decode())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} line {number} is not a record ({one_line(error)}): restore the file from "
                "a backup, or let `harness store repair` set the line aside, whose trial is then "
                "computed again"
            ) from None


def _record(line: str) -> Record:
    record = Record.from_json(unseal(line))
    if not is_sealed(line):  # of version 1: nothing else vouches for it
        _RECORD.validate_json(line, strict=True)
        if record.status == "finished" and not record.looks:
            raise ValueError("it finished without a look")
        for look in record.looks:
            for split, correct in look.correct.items():
                counts, total = np.array(correct), np.array(record.total[split])
                if counts.shape != total.shape or (counts < 0).any() or (counts > total).any():
                    raise ValueError(f"{split} counts that its totals do not allow")
    return record


_RECORD = TypeAdapter(Record)


def _drop_torn_line(file: IO[bytes]) -> int:
    """Truncates an unfinished last line, so that the next one does not glue to it.

    Returns:
        Where the file ends now.
    """
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - 65536, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            file.truncate(start + newline + 1)
            return start + newline + 1
        end = start
    file.truncate(0)
    return 0
