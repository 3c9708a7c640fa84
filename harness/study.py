"""A study: one method searched and confirmed on one biased data set, and its files in the store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,  # pydantic wants these on Python 3.11
)

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from harness import ledger
from harness.disk import is_sealed, replace_atomically, seal, unseal
from harness.ledger import Ledger, Record, Role
from harness.selection import RULES
from harness.space import Range, Settings, one_line, range_from_json, range_to_json, slug

CONFIRM_SEED = 1000
"""First confirm seed; search seeds count from 0, so the two never meet."""


class Metrics(NamedTuple):
    """Which metrics of the test split a data set's results are read by.

    Attributes:
        primary: Ranks a leaderboard, as in published tables.
        unbiased: Counts as unbiased accuracy.
    """

    primary: str = "accuracy"
    unbiased: str = "accuracy"


class Work(NamedTuple):
    """One method to be trained with one setting and one seed."""

    study: str
    role: Role
    number: int
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        """Identity within the study; that of the record it will leave."""
        return f"{self.role}/{self.number}/{self.seed}"


@dataclass(frozen=True)
class Study:
    """What makes results comparable; two commands with equal fields continue the same study.

    Attributes:
        plugin: File that defines the method, if it is not a registered one.
        ratio: Share of bias-conflicting training samples, in percent.
        base: Settings of the first trial: the preset's, with the user's changes.
        space: What the search varies, by dotted name.
        search_seeds: Every trial is trained once with each of these.
        code: Digest of the method's source, the numerics it computes with and the data's version.
        aligned: (labels, attributes) table of the bias-aligned cells.
        amp: Whether networks compute in bfloat16 where autocast allows it.
    """

    method: str
    plugin: str
    dataset: str
    ratio: float
    preset: str
    data_seed: int
    device: str
    searcher: str
    scheduler: str
    select: str
    search_seeds: tuple[int, ...]
    base: Settings
    space: dict[str, Range]
    code: str
    aligned: list[list[bool]]
    amp: bool = False

    @cached_property
    def id(self) -> str:
        """Readable name with a digest of all fields; names the study's folder."""
        text = json.dumps(self.to_json(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{slug(self.dataset)}-{self.ratio:g}-{self.method}-{self.preset}-{digest}"

    @property
    def regime(self) -> str:
        """The preset, and the arithmetic where it is not float32: what numbers are made under."""
        return f"{self.preset}, bfloat16" if self.amp else self.preset

    def value(self, record: Record, look: int = -1) -> float:
        """What the search maximises: the study's rule on one look of one record."""
        return RULES[self.select].value(record, self.aligned, look)

    def trial_values(self, records: Ledger) -> dict[int, float]:
        """Trial number -> mean value over the search seeds, for trials that finished them all."""
        by_trial: dict[int, list[Record]] = {}
        for record in records.of("search"):
            if record.status == "finished":
                by_trial.setdefault(record.number, []).append(record)
        return {
            number: value
            for number, trials in by_trial.items()
            if len(trials) == len(self.search_seeds)
            and math.isfinite(value := fmean(self._value_in(records, r) for r in trials))
        }

    def _value_in(self, records: Ledger, record: Record) -> float:
        """The value of the last look, computed once."""
        if record.key not in records.values:
            records.values[record.key] = self.value(record)
        return records.values[record.key]

    def winner(self, records: Ledger) -> int | None:
        """Number of the best trial, the earliest of equals; None if none finished."""
        values = self.trial_values(records)
        return max(values, key=lambda n: (values[n], -n)) if values else None

    def confirmed(self, records: Ledger) -> list[Record]:
        """The finished confirm runs of the winner: what a leaderboard shows."""
        winner = self.winner(records)
        confirm = records.of("confirm")
        return [r for r in confirm if r.number == winner and r.status == "finished"]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain data; `amp` only where it is on, as it is younger than the others."""
        # Plain comprehension: dataclasses.asdict would turn the ranges into dicts without kind.
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not self.amp:
            del data["amp"]
        return data | {"space": {n: range_to_json(r) for n, r in self.space.items()}}


class Definition(TypedDict):
    """What study.json holds."""

    version: int
    study: dict[str, Any]
    lookahead: int
    metrics: NotRequired[dict[Literal["primary", "unbiased"], str]]  # younger than the others
    environment: dict[str, str]


_DEFINITION = TypeAdapter(Definition)


@dataclass(frozen=True)
class Store:
    """The folder that holds studies, stages and the tracking database."""

    root: Path

    def claim(self) -> None:
        """Makes the folder if need be.

        Raises:
            ValueError: It cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ValueError(
                f"cannot write the store {self.root}: {error.strerror}; name another --store"
            ) from None

    @property
    def stages(self) -> Path:
        """Stage artifacts, shared by all studies."""
        return self.root / "stages"

    @property
    def optuna_journal(self) -> Path:
        """Optuna's view of the studies, derived from the ledgers."""
        return self.root / "optuna.journal"

    def folder(self, study: str) -> Path:
        """Everything one study keeps."""
        return self.root / "studies" / study

    def checkpoint(self, study: str, key: str) -> Path:
        """Final network of a confirm or train run."""
        return self.folder(study) / "checkpoints" / f"{key.replace('/', '-')}.pt"

    def progress_file(self, study: str, key: str) -> Path:
        """Where running work says how far it is."""
        return self.folder(study) / "progress" / f"{key.replace('/', '-')}.json"

    def stack_file(self, study: str, key: str) -> Path:
        """Where work that is stopped for taking too long leaves the stacks of its threads."""
        return self.progress_file(study, key).with_suffix(".stack")

    def ledger(self, study: str) -> Ledger:
        """The study's records as they are on disk now."""
        return Ledger(self.folder(study) / "ledger.jsonl")

    def studies(self) -> list[Study]:
        """All studies in the store, by id.

        Raises:
            ValueError: One was written by a newer version.
        """
        files = sorted((self.root / "studies").glob("*/study.json"))
        return [self.open(file.parent.name) for file in files]

    def open(self, study: str) -> Study:
        """Reads a study's definition.

        Raises:
            ValueError: It was written by a newer version, is not readable, or is another study.
        """
        try:
            fields = self._read(study)["study"]
            fields["space"] = {n: range_from_json(r) for n, r in fields["space"].items()}
            fields["search_seeds"] = tuple(fields["search_seeds"])
            read = Study(**fields)
            name = read.id
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"cannot read the study {self.folder(study)}: {error}") from None
        if name != study:
            raise ValueError(
                f"{self.folder(study)} holds the study {name}: its study.json was altered, or the "
                "folder renamed; restore one of them, or move the folder out of the store"
            )
        return read

    def environment(self, study: str) -> dict[str, str]:
        """When the study began, and with which packages, platform and git commit."""
        return self._read(study)["environment"]

    def lookahead(self, study: str) -> int:
        """How many of the newest results the study's proposals do without, fixed when it began."""
        return self._read(study)["lookahead"]

    def metrics(self, study: str) -> Metrics:
        """Which test metrics count on the study's data set."""
        return Metrics(**self._read(study).get("metrics", {}))

    def create(self, study: Study, lookahead: int, metrics: Metrics | None = None) -> None:
        """Writes a study's definition if it is not there yet; brings an older one up to date.

        Raises:
            ValueError: It is there, but of a newer version.
        """
        path = self.folder(study.id) / "study.json"
        if path.exists():
            self.open(study.id)
            self.migrate(study.id)
            return
        metrics = metrics or Metrics()
        definition: Definition = {
            "version": ledger.VERSION,
            "study": study.to_json(),
            "lookahead": lookahead,
            "metrics": {"primary": metrics.primary, "unbiased": metrics.unbiased},
            "environment": environment(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, seal(dict(definition), indent=1).encode())

    def migrate(self, study: str) -> None:
        """Seals an older study's definition as one of this version, which older harnesses refuse.

        Its records need no change: those without a seal are read as they are.
        """
        path = self.folder(study) / "study.json"
        if not is_sealed(path.read_text()):
            definition = self._read(study) | {"version": ledger.VERSION}
            replace_atomically(path, seal(dict(definition), indent=1).encode())

    def _read(self, study: str) -> Definition:
        path = self.folder(study) / "study.json"
        try:
            data = unseal(path.read_text())
            written = int(data["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot read {path}: {one_line(error)}") from None
        if written > ledger.VERSION:
            raise ValueError(
                f"{path} has store version {written}, newer than this harness reads "
                f"({ledger.VERSION}): upgrade the harness or name another --store"
            )
        try:
            return _DEFINITION.validate_python(data)
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {one_line(error)}") from None


@dataclass(frozen=True)
class Snapshot(Store):
    """A store whose ledgers stay as they were at the first look, for reports: they look often."""

    _ledgers: dict[str, Ledger] = field(default_factory=dict, compare=False, repr=False)

    def ledger(self, study: str) -> Ledger:
        """The study's records as they were when first asked for."""
        if study not in self._ledgers:
            self._ledgers[study] = super().ledger(study)
        return self._ledgers[study]


def environment() -> dict[str, str]:
    """What a study's numbers are computed with, and when it began."""
    packages = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "debias-harness")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "git_commit": commit or "unknown",
        **{name: version(name) for name in packages},
    }
