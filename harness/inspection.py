"""What is on disk in a store, read without trusting or changing it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter

from harness.disk import is_sealed, sha256, unseal
from harness.ledger import Record
from harness.study import CONFIRM_SEED, Study

_RECORD = TypeAdapter(Record)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, AttributeError,
               IndexError, UnpicklingError, zipfile.BadZipFile, struct.error)  # fmt: skip
"""What zipfile and torch.load raise on files that are not what they should be."""


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        remedy: What repair does, or what a person can do where it does nothing.
        mend: Does it; several findings may share one.
    """

    path: Path
    what: str
    remedy: str
    mend: Callable[[], None] | None = None


@dataclass(frozen=True)
class Line:
    """One line of a ledger, whatever is in it.

    Attributes:
        record: None if it cannot be read.
        fault: Why it cannot be, or cannot stay as it is; empty if it can.
    """

    number: int
    text: bytes
    record: Record | None
    fault: str

    @property
    def is_sealed(self) -> bool:
        """Whether a changed byte would be noticed."""
        return self.record is not None and is_sealed(self.text.decode())


def ledger_lines(path: Path, study: Study) -> list[Line]:
    """Every line of a study's ledger; the last one may be torn."""
    if not path.exists():
        return []
    *complete, torn = path.read_bytes().split(b"\n")
    lines = [_line(number, text, study) for number, text in enumerate(complete, 1)]
    last = {line.record.key: line.number for line in lines if line.record and not line.fault}
    for index, line in enumerate(lines):
        if line.record and not line.fault and last[line.record.key] != line.number:
            later = f"line {last[line.record.key]} is of the same run, {line.record.key}"
            lines[index] = Line(line.number, line.text, line.record, later)
    if torn:
        lines.append(Line(len(lines) + 1, torn, None, "it was not written to its end"))
    return lines


def _line(number: int, text: bytes, study: Study) -> Line:
    try:
        data = unseal(text.decode())
        _RECORD.validate_json(json.dumps(data), strict=True)
        record = Record.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Line(number, text, None, f"it is not a record ({_first_line(error)})")
    return Line(number, text, record, next(_impossible(record, study), ""))


def _impossible(record: Record, study: Study) -> Iterator[str]:
    """What cannot be true of a record of this study."""
    seeds = {
        "search": record.seed in study.search_seeds,
        "confirm": record.seed >= CONFIRM_SEED,
        "train": record.number == 0,
    }
    if not seeds[record.role] or record.number < 0:
        yield f"no run of the study is {record.key}"
    searched = study.space if record.role != "train" else {}
    fixed = {name: value for name, value in study.base.items() if name not in searched}
    if record.settings.keys() != study.base.keys():
        yield f"its settings are not the study's: {record.settings.keys() ^ study.base.keys()}"
    for name, value in fixed.items():
        if record.settings.get(name) != value:
            yield f"{name} is {record.settings.get(name)}, but {value} in all of the study"
    if record.status == "finished" and not record.looks:
        yield "it finished without a look"
    shape = np.shape(study.aligned)
    for split, total in record.total.items():
        if _shape(total) != shape or np.min(total) < 0:
            yield f"its {split} table is not one of {shape} counts"
    for look in record.looks:
        for split, correct in look.correct.items():
            counted = record.total.get(split, [])
            if _shape(correct) != _shape(counted) or np.min(correct) < 0:
                yield f"its {split} counts at step {look.step} do not fit its totals"
            elif (np.array(correct) > np.array(counted)).any():
                yield f"more {split} images are correct at step {look.step} than there are"
    seconds = [record.seconds, *(look.seconds for look in record.looks)]
    if not all(0 <= each < float("inf") for each in seconds):
        yield f"its seconds are {seconds}"


def _shape(table: list[list[int]]) -> tuple[int, ...]:
    return (len(table), *{len(row) for row in table})


def archive_fault(path: Path) -> str:
    """Why a file of tensors cannot be read back as it was written; empty if it can."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            broken = archive.testzip()
        if broken is not None:
            return f"{broken} in it is not as it was written"
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        return "it is missing"
    except _UNREADABLE as error:
        return f"it cannot be read ({_first_line(error)})"
    return ""


def stage_fault(folder: Path) -> str:
    """Why a stage artifact cannot be used; empty if it can."""
    try:
        manifest = unseal((folder / "manifest.json").read_text())
        name = f"{manifest['function'].rsplit('.', 1)[-1]}-{manifest['key'][:24]}"
        if name != folder.name:
            return f"its manifest is that of {name}"
        if sha256(folder / "value.pt") != manifest["sha256"]:
            return "its bytes differ from its manifest"
        str(manifest["digest"]), float(manifest["seconds"])
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({_first_line(error)})"
    return archive_fault(folder / "value.pt")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class TrackedRun(NamedTuple):
    """A run of ours in MLflow's database.

    Attributes:
        study: The study's id, and when it began.
        key: The record's; empty for the run of the study itself.
    """

    id: str
    status: str
    study: str
    key: str


_RUNS = """
SELECT runs.run_uuid, runs.status, study.value, COALESCE(record.value, '')
FROM runs
JOIN tags AS study ON study.run_uuid = runs.run_uuid
    AND study."key" IN ('harness.study', 'harness.study_root')
LEFT JOIN tags AS record ON record.run_uuid = runs.run_uuid AND record."key" = 'harness.key'
WHERE runs.lifecycle_stage = 'active'
ORDER BY runs.status = 'RUNNING', runs.start_time, runs.run_uuid
"""


def tracked_runs(database: Path) -> list[TrackedRun]:
    """Our runs that are not deleted, those that are still RUNNING last.

    Raises:
        sqlite3.DatabaseError: The database is damaged.
    """
    log = database.with_name(f"{database.name}-wal")
    with tempfile.TemporaryDirectory() as scratch:
        if log.exists() and log.stat().st_size:  # to be read, it must be written to
            for file in (database, log):
                shutil.copy(file, scratch)
            database = Path(scratch) / database.name
        with_options = f"{database.resolve().as_uri()}?immutable={int(not os.listdir(scratch))}"
        connection = sqlite3.connect(with_options, uri=True)
        try:
            said: list[tuple[Any, ...]] = connection.execute("PRAGMA quick_check(1)").fetchall()
            if said != [("ok",)]:
                raise sqlite3.DatabaseError(str(said[0][0]).splitlines()[-1])
            return [TrackedRun(*row) for row in connection.execute(_RUNS)]
        finally:
            connection.close()
