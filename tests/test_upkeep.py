"""Upkeep: every damage is found, repair loses nothing and leaves nothing to find."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import optuna_view, tracking, upkeep, upkeep_views
from harness.cli import main
from harness.disk import seal, sha256, unseal
from harness.inspection import ledger_lines, tracked_runs
from harness.ledger import Look, Record
from harness.space import Log, Range
from harness.stages import StageStore, stage_key
from harness.study import Store, Study, Work

CPU = torch.device("cpu")
BASE = {"lr": 0.1, "steps": 3}


def ones(count: int) -> torch.Tensor:
    return torch.ones(count)


def make_record(work: Work, status: str = "finished") -> Record:
    total = {split: [[20, 5], [5, 20]] for split in ("valid_unbiased", "test")}
    correct = {split: [[work.number + 1, 0], [5, 3]] for split in total}
    looks = [Look(3, 1.5, correct)] if status == "finished" else []
    return Record(
        work.role, work.number, work.seed, work.settings, status, total if looks else {}, looks,
        metrics={"mining/precision": float("nan")}, seconds=1.5,
        started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


@dataclasses.dataclass
class Kept:
    """A store that can be put back as it was."""

    store: Store
    template: Path
    searched: Study
    trained: Study

    def restore(self) -> None:
        shutil.rmtree(self.store.root)
        shutil.copytree(self.template, self.store.root)

    @property
    def ledger(self) -> Path:
        return self.store.folder(self.searched.id) / "ledger.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.store.checkpoint(self.searched.id, "confirm/1/1000")

    @property
    def stage(self) -> Path:
        return next(path for path in sorted(self.store.stages.glob("ones-*")) if path.is_dir())

    @property
    def database(self) -> Path:
        return self.store.root / "mlflow.db"


def make_study(method: str, space: dict[str, Range]) -> Study:
    return Study(
        method=method, plugin="", dataset="tiny", ratio=12.5, preset="quick", data_seed=0,
        device="cpu", searcher="tpe", scheduler="none", select="unbiased", search_seeds=(0,),
        base=BASE, space=space, code="code", aligned=[[True, False], [False, True]],
    )  # fmt: skip


def make_store(root: Path, tracked: bool) -> Kept:
    store = Store(root / "store")
    searched = make_study("toy", {"lr": Log(0.01, 1.0)})
    trained = make_study("other", {})
    works = [Work(searched.id, "search", n, 0, BASE | {"lr": 0.1 * (n + 1)}) for n in range(3)]
    works += [Work(searched.id, "confirm", 1, seed, works[1].settings) for seed in (1000, 1001)]
    works += [Work(trained.id, "train", 0, 5, BASE)]
    for study in (searched, trained):
        store.create(study, lookahead=1)
    for work in works:
        if work.role != "search":
            path = store.checkpoint(work.study, work.key)
            path.parent.mkdir(exist_ok=True)
            torch.save({"weight": torch.full((100,), work.seed)}, path)
        failed = work.key == "search/2/0"
        store.ledger(work.study).append(make_record(work, "failed" if failed else "finished"))
    for count in (3, 300):
        key = stage_key(ones, [str(count)], 0, "cpu")
        StageStore(store.stages).fetch(key, lambda count=count: ones(count), CPU)
    optuna_view.write_storage(store, store.studies())
    if tracked:
        assert not tracking.Tracker(store, tracking.local_uri(store), store.studies()).close()
    shutil.copytree(store.root, root / "template")
    return Kept(store, root / "template", searched, trained)


@pytest.fixture(scope="module")
def tracked_once(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_store(tmp_path_factory.mktemp("tracked"), tracked=True)


@pytest.fixture(scope="module")
def plain_once(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_store(tmp_path_factory.mktemp("plain"), tracked=False)


@pytest.fixture
def tracked(tracked_once: Kept) -> Kept:
    tracked_once.restore()
    return tracked_once


@pytest.fixture
def plain(plain_once: Kept) -> Kept:
    plain_once.restore()
    return plain_once


NOTHING = "2 studies, 6 records, 2 stages, 3 checkpoints: nothing wrong"


def said(capsys: pytest.CaptureFixture, command: Callable[[Store], int], store: Store) -> list[str]:
    """The lines that a command prints, with the path of the store left out."""
    capsys.readouterr()
    command(store)
    printed = capsys.readouterr().out.replace(f"{store.root}/", "").splitlines()
    return [line for line in printed if "…" not in line or ";" in line]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_sound_store_is_said_to_be_and_left_as_it_is(
    tracked: Kept, capsys: pytest.CaptureFixture
) -> None:
    before = snapshot(tracked.store.root)
    assert said(capsys, upkeep.check, tracked.store) == [NOTHING]
    assert upkeep.check(tracked.store) == 0
    assert snapshot(tracked.store.root) == before
    assert upkeep.repair(tracked.store) == 0
    after = snapshot(tracked.store.root)
    assert {name: after[name] for name in before} == before


def test_there_must_be_a_store(tmp_path: Path) -> None:
    for command in (upkeep.check, upkeep.repair):
        with pytest.raises(ValueError, match="there is no store at .*; correct --store"):
            command(Store(tmp_path / "none"))


def replace_line(path: Path, number: int, change: Callable[[dict], None], sealed: bool = True):
    lines = path.read_text().splitlines()
    data = unseal(lines[number - 1])
    change(data)
    lines[number - 1] = seal(data) if sealed else json.dumps(data)
    path.write_text("".join(f"{line}\n" for line in lines))


IMPOSSIBLE = [
    (lambda d: d["looks"][0]["correct"]["test"][0].__setitem__(0, 21), "more test images are corr"),
    (lambda d: d["looks"][0]["correct"]["test"].pop(), "its test counts at step 3 do not fit"),
    (lambda d: d["looks"][0]["correct"]["test"][0].__setitem__(0, -1), "its test counts at step"),
    (lambda d: d["total"].pop("test"), "its test counts at step 3 do not fit"),
    (lambda d: d["total"]["test"][0].append(1), "its test table is not one of (2, 2) counts"),
    (lambda d: d["settings"].pop("lr"), "its settings are not the study's: {'lr'}"),
    (lambda d: d["settings"].update(steps=4), "steps is 4, but 3 in all of the study"),
    (lambda d: d.update(seed=7), "no run of the study is search/1/7"),
    (lambda d: d.update(number=-1), "no run of the study is search/-1/0"),
    (lambda d: d.update(role="confirm"), "no run of the study is confirm/1/0"),
    (lambda d: d.update(looks=[]), "it finished without a look"),
    (lambda d: d.update(seconds=float("inf")), "its seconds are [inf, 1.5]"),
    (lambda d: d.update(seconds="long"), "it is not a record (1 validation error"),
    (lambda d: d.update(status="done"), "it is not a record (1 validation error"),
    (lambda d: d.update(extra=1), "it is not a record (Record.__init__() got an unexpected"),
    (lambda d: d.update(number=0), "line 2 is of the same run, search/0/0"),
]


@pytest.mark.parametrize(("change", "says"), IMPOSSIBLE, ids=[says for _, says in IMPOSSIBLE])
def test_a_record_that_cannot_be_is_set_aside(
    change: Callable[[dict], None], says: str, plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    lines = plain.ledger.read_text().splitlines()
    replace_line(plain.ledger, 2, change)
    changed = plain.ledger.read_text().splitlines()
    number, gone = (1, changed[0]) if "same run" in says else (2, changed[1])
    finding = said(capsys, upkeep.check, plain.store)[0]
    assert finding.startswith(f"studies/{plain.searched.id}/ledger.jsonl: line {number}: {says}")
    assert finding.endswith("to ledger.jsonl.damaged; the same command computes its run again")
    assert upkeep.repair(plain.store) == 0
    assert upkeep.check(plain.store) == 0
    kept = [line for line in changed if line != gone]
    assert plain.ledger.read_text().splitlines() == kept
    assert plain.ledger.with_name("ledger.jsonl.damaged").read_text() == f"{gone}\n"
    assert kept[-1] == lines[-1]


def test_a_changed_byte_and_a_torn_line_are_named(
    plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    content = plain.ledger.read_text()
    second = content.splitlines()[1]
    torn = content.splitlines()[2][:40]
    plain.ledger.write_text(
        content.replace(second, second.replace('"seconds":1.5', '"seconds":2.5', 1)) + torn
    )
    found = said(capsys, upkeep.check, plain.store)
    assert "line 2: it is not a record (it is not as it was written)" in found[0]
    assert "line 6: it was not written to its end" in found[1]
    assert said(capsys, upkeep.repair, plain.store)[-1].startswith(
        "2 studies, 5 records, 2 stages, 3 checkpoints: 3 findings mended, 0 left"
    )  # the third is what Optuna is shown, which lacks that run now
    assert upkeep.check(plain.store) == 0


def test_a_run_whose_network_is_lost_is_set_aside(
    plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    content = bytearray(plain.checkpoint.read_bytes())
    content[content.index(b"\xe8\x03\x00\x00\x00\x00\x00\x00" * 2)] ^= 1  # within the numbers
    plain.checkpoint.write_bytes(content)
    plain.store.checkpoint(plain.searched.id, "confirm/1/1001").unlink()
    found = said(capsys, upkeep.check, plain.store)
    assert "in it is not as it was written, but confirm/1/1000 is recorded as finish" in found[0]
    assert "it is missing, but confirm/1/1001 is recorded as finished" in found[1]
    assert upkeep.repair(plain.store) == 0
    assert upkeep.check(plain.store) == 0
    assert set(plain.store.ledger(plain.searched.id).records) == {
        f"search/{number}/0" for number in range(3)
    }
    assert plain.checkpoint.with_name("confirm-1-1000.pt.damaged").read_bytes() == content
    assert len(plain.ledger.with_name("ledger.jsonl.damaged").read_text().splitlines()) == 2


def test_a_study_that_cannot_be_read_stays_and_so_do_its_runs(
    tracked: Kept, capsys: pytest.CaptureFixture
) -> None:
    path = tracked.ledger.with_name("study.json")
    path.write_text(path.read_text().replace('"ratio": 12.5', '"ratio": 13.5'))
    before = snapshot(tracked.store.root)
    for command in (upkeep.check, upkeep.repair):
        line = next(each for each in said(capsys, command, tracked.store) if "study.json" in each)
        assert "cannot read" in line and "it is not as it was written" in line
        assert line.endswith("with its --concurrency, then writes it anew")
    assert upkeep.repair(tracked.store) == 1
    after = snapshot(tracked.store.root)
    assert {name for name in before if after.get(name) != before[name]} == {"optuna.journal"}


def test_studies_in_a_wrong_folder_or_of_a_newer_version_stay(
    plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    plain.ledger.parent.rename(plain.ledger.parent.with_name("renamed"))
    path = plain.store.folder(plain.trained.id) / "study.json"
    path.write_text(seal(unseal(path.read_text()) | {"version": 99}))
    found = "\n".join(said(capsys, upkeep.check, plain.store))
    assert f"holds the study {plain.searched.id}" in found
    assert "has store version 99, newer than" in found
    assert upkeep.repair(plain.store) == 1
    assert (plain.store.root / "studies" / "renamed" / "study.json").exists()


def test_damaged_and_foreign_stages_are_removed(plain: Kept, capsys: pytest.CaptureFixture) -> None:
    value = plain.stage / "value.pt"
    content = value.read_bytes()
    whole = snapshot(plain.stage)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: value.write_bytes(content[:-1]), "its bytes differ from its manifest"),
        (value.unlink, "value.pt is missing"),
        ((plain.stage / "manifest.json").unlink, "manifest.json is missing"),
        (lambda: (plain.stage / "manifest.json").write_text("{"), "its manifest cannot be read"),
        (lambda: plain.stage.rename(plain.store.stages / "ones-0"), "its manifest is that of ones"),
    ]
    folder = plain.stage
    for damage, says in cases:
        shutil.rmtree(plain.store.stages / "ones-0", ignore_errors=True)
        folder.mkdir(exist_ok=True)
        for name, data in whole.items():
            (folder / name).write_bytes(data)
        damage()
        found = said(capsys, upkeep.check, plain.store)
        assert says in found[0] and "computes it again" in found[0]
        assert upkeep.repair(plain.store) == 0
        assert said(capsys, upkeep.check, plain.store)[-1] == NOTHING.replace(
            "2 stages", "1 stages"
        )


def test_a_stage_that_would_run_code_is_not_loaded(
    plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    value = plain.stage / "value.pt"
    torch.save(Study, value)
    manifest = unseal((plain.stage / "manifest.json").read_text())
    manifest["sha256"] = sha256(value)
    (plain.stage / "manifest.json").write_text(seal(manifest))
    assert (
        "it cannot be read (Weights only load failed" in said(capsys, upkeep.check, plain.store)[0]
    )


def test_what_killed_processes_left_is_removed(plain: Kept, capsys: pytest.CaptureFixture) -> None:
    root, folder = plain.store.root, plain.ledger.parent
    (folder / "progress").mkdir()
    (root / "studies" / "begun").mkdir()
    left = [
        root / ".optuna.journal.partial", root / "stages" / ".ones-1.partial" / "value.pt",
        root / "stages" / "ones-2.part" / "value.pt", folder / "progress" / "search-0-0.json",
        folder / "checkpoints" / ".confirm-1-1000.pt.partial", folder / ".ledger.jsonl.partial",
        root / "studies" / "begun" / ".study.json.partial",
    ]  # fmt: skip
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    assert len(said(capsys, upkeep.check, plain.store)) == 9
    assert upkeep.repair(plain.store) == 0
    assert not any(file.exists() for file in left)
    assert not (root / "studies" / "begun").exists()
    assert said(capsys, upkeep.check, plain.store) == [NOTHING]


def test_a_store_of_version_1_is_sealed(plain: Kept, capsys: pytest.CaptureFixture) -> None:
    before = snapshot(plain.store.root)
    for path in plain.store.root.glob("studies/*/*.json*"):
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        older = [unseal(text) for text in texts]
        if path.suffix == ".json":
            older[0]["version"] = 1
        path.write_text("".join(json.dumps(data) + "\n" for data in older))
    found = said(capsys, upkeep.check, plain.store)
    assert sum("older version" in line for line in found) == 4 == len(found) - 1
    assert "5 lines of an older version have no seal; repair seals them" in "".join(found)
    assert upkeep.repair(plain.store) == 0
    after = snapshot(plain.store.root)
    assert {name: after[name] for name in before} == before
    assert not list(plain.store.root.rglob("*.damaged"))


def test_a_study_that_is_being_run_is_left_alone(
    plain: Kept, capsys: pytest.CaptureFixture
) -> None:
    plain.ledger.write_text("torn")
    plain.store.optuna_journal.unlink()
    with FileLock(plain.ledger.parent.with_name(f"{plain.searched.id}.lock")):
        found = said(capsys, upkeep.check, plain.store)
        assert found[0].endswith(f"{plain.searched.id}: it is being run by another process, and "
                                 "left alone")  # fmt: skip
        assert found[-1] == "1 studies, 1 records, 0 stages, 1 checkpoints: nothing wrong"
        assert upkeep.repair(plain.store) == 1
        assert plain.ledger.read_text() == "torn"
    assert upkeep.check(plain.store) == 1


def runs_of(kept: Kept) -> list[tuple[str, str, str]]:
    """Study, key and state of what is not deleted."""
    return sorted((run.study, run.key, run.status) for run in tracked_runs(kept.database))


def damage_rows(kept: Kept) -> None:
    """A run that is there twice, one that is left running, one missing, one of no record."""
    database = sqlite3.connect(kept.database)
    ids = dict(database.execute("SELECT value, run_uuid FROM tags WHERE key = 'harness.key'"))
    database.execute("PRAGMA foreign_keys = OFF")
    with database:
        for table in ("runs", "tags"):
            rows = database.execute(
                f"SELECT * FROM {table} WHERE run_uuid = ?", [ids["search/0/0"]]
            )
            columns = [each[0] for each in rows.description]
            for row in rows.fetchall():
                values = [
                    "twin" if c == "run_uuid" else v for c, v in zip(columns, row, strict=True)
                ]
                marks = ",".join("?" * len(values))
                database.execute(f"INSERT INTO {table} VALUES ({marks})", values)
        database.execute(
            "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", [ids["search/1/0"]]
        )
        database.execute(
            "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", [ids["search/2/0"]]
        )
        database.execute(
            "UPDATE tags SET value = 'train/9/9' WHERE key = 'harness.key' AND run_uuid = ?",
            [ids["train/0/5"]],
        )
    database.close()


def test_runs_in_mlflow_are_made_those_of_the_ledgers(
    tracked: Kept, capsys: pytest.CaptureFixture
) -> None:
    runs = runs_of(tracked)
    damage_rows(tracked)
    found = said(capsys, upkeep.check, tracked.store)
    assert [line.split(": ")[1].split(" of study")[0] for line in found[:-1]] == [
        "1 runs are of no record, such as train/9/9",
        "1 runs are there twice, such as search/0/0",
        "2 runs are missing, such as train/0/5",
        "1 runs are left RUNNING, such as search/1/0",
    ]
    assert upkeep.repair(tracked.store) == 0
    assert said(capsys, upkeep.check, tracked.store) == [NOTHING]
    assert runs_of(tracked) == runs


def test_a_damaged_database_is_moved_aside_and_written_anew(
    tracked: Kept, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_of(tracked)
    for number, content in enumerate([b"", tracked.database.read_bytes()[:70_000]], 1):
        tracked.database.write_bytes(content)
        assert "mlflow.db: it is damaged (" in said(capsys, upkeep.check, tracked.store)[0]
        with monkeypatch.context() as patch:  # killed before it is written anew
            patch.setattr(upkeep_views, "_track", kill)
            with pytest.raises(Killed):
                upkeep.repair(tracked.store)
        assert said(capsys, upkeep.check, tracked.store)[0].startswith("mlflow.db: it is missing")
        assert upkeep.repair(tracked.store) == 0
        aside = tracked.database.with_name(f"mlflow.db.damaged-{number}")
        assert aside.read_bytes() == content
        assert said(capsys, upkeep.check, tracked.store) == [NOTHING]
    assert runs_of(tracked) == runs


class Killed(BaseException):
    """What a test has instead of SIGKILL."""


def kill(*_: object, **__: object) -> None:
    raise Killed


def damage_all(kept: Kept) -> None:
    """Something of everything that repair writes, in a store that MLflow is not used with."""
    content = kept.ledger.read_text()
    kept.ledger.write_text(content.replace("1.5", "2.5", 1) + "torn")
    trained = kept.store.folder(kept.trained.id) / "study.json"
    trained.write_text(json.dumps(unseal(trained.read_text()) | {"version": 1}))
    kept.checkpoint.write_bytes(b"x")
    (kept.stage / "value.pt").write_bytes(b"x")
    (kept.store.root / ".optuna.journal.partial").write_text("x")


def test_a_repair_that_is_killed_is_started_again(
    plain: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain.restore()
    damage_all(plain)
    upkeep.repair(plain.store)
    undisturbed = snapshot(plain.store.root)
    steps = 0
    for after in (False, True):
        for last in range(100):
            plain.restore()
            damage_all(plain)
            with monkeypatch.context() as patch:
                left = kill_at(patch, last, after)
                try:
                    upkeep.repair(plain.store)
                except Killed:
                    steps += 1
                else:
                    assert next(left) == 0
                    break
            upkeep.repair(plain.store)
            assert snapshot(plain.store.root) == undisturbed, last
            assert upkeep.check(plain.store) == 0
    assert steps > 20


def kill_at(patch: pytest.MonkeyPatch, last: int, after: bool) -> Iterator[int]:
    """Has the process die at a certain change of the disk, before or after it is made."""
    left = iter(range(last, -100, -1))

    def dying(change: Callable) -> Callable:
        def changed(*arguments: object, **options: object) -> object:
            die = next(left) == 0
            if die and not after:
                raise Killed
            result = change(*arguments, **options)
            if die:
                raise Killed
            return result

        return changed

    for name in ("replace", "rename", "unlink", "rmdir", "write"):
        patch.setattr(os, name, dying(getattr(os, name)))
    return left


def flipped(content: bytes, where: float) -> bytes:
    at = int(where * len(content))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, float], bytes | None]] = {
    "a flipped bit": flipped,
    "cut off": lambda content, where: content[: int(where * len(content))],
    "zeroed to the end": lambda content, where: content[: int(where * len(content))].ljust(
        len(content), b"\0"
    ),
    "written twice": lambda content, where: content + content,
    "a torn write at the end": lambda content, where: content + content[: int(where * 99)],
    "gone": lambda content, where: None,
}
TRUTH = ("ledger.jsonl", "study.json", ".pt")


def damage(kept: Kept, file: int, kind: str, where: float) -> None:
    files = sorted(path for path in kept.template.rglob("*") if path.is_file())
    files = [f for f in files if f.suffix != ".lock" and "mlflow-artifacts" not in f.parts]
    relative = files[file % len(files)].relative_to(kept.template)
    path = kept.store.root / relative
    if path.exists() and (content := path.read_bytes()):
        changed = DAMAGES[kind](content, where)
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)


def check_law(kept: Kept, damages: list[tuple[int, str, float]]) -> None:
    """After a repair nothing is found that can be mended, and nothing of worth is gone."""
    kept.restore()
    for each in damages:
        damage(kept, *each)
    before = snapshot(kept.store.root)
    sound = {study.id: sound_lines(kept.store, study) for study in (kept.searched, kept.trained)}
    upkeep.repair(kept.store)
    after = snapshot(kept.store.root)
    running: set[str] = set()
    left = [f for found in upkeep._findings(kept.store, running, Counter()) for f in found]
    assert all(each.mend is None and each.path.name == "study.json" for each in left)
    contents = {*after.values()}
    for name, content in before.items():
        if name.endswith("ledger.jsonl"):
            folder = kept.store.root / name
            damaged = folder.with_name("ledger.jsonl.damaged")
            lines = folder.read_bytes() + (damaged.read_bytes() if damaged.exists() else b"")
            assert {*content.split(b"\n")} <= {*lines.split(b"\n")}
        elif name.startswith("studies") and not name.endswith(".lock"):
            assert content in contents, name
    for study in (kept.searched, kept.trained):
        lost = sound[study.id] - sound_lines(kept.store, study)
        for key in lost:  # only with the network of the run
            path = kept.store.checkpoint(study.id, key)
            assert (
                before.get(str(path.relative_to(kept.store.root)))
                != (kept.template / path.relative_to(kept.store.root)).read_bytes()
            )


def sound_lines(store: Store, study: Study) -> set[str]:
    """The runs whose records can be read and can be true."""
    lines = ledger_lines(store.folder(study.id) / "ledger.jsonl", study)
    return {line.record.key for line in lines if line.record and not line.fault}


damages = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from(sorted(DAMAGES)), st.floats(0, 0.999)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(damages)
def test_repair_leaves_nothing_to_find_whatever_was_damaged(
    plain_once: Kept, damages: list[tuple[int, str, float]]
) -> None:
    check_law(plain_once, damages)


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(st.tuples(st.just(0), st.sampled_from(sorted(DAMAGES)), st.floats(0, 0.999)))
def test_repair_leaves_nothing_to_find_whatever_happened_to_mlflow(
    tracked_once: Kept, damaged: tuple[int, str, float]
) -> None:
    check_law(tracked_once, [damaged])


def test_both_are_commands(
    plain: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain.store.optuna_journal.unlink()
    for command, code in (("check", 1), ("repair", 0), ("check", 0)):
        monkeypatch.setattr(
            "sys.argv", ["harness", "store", command, "--store", str(plain.store.root)]
        )
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
    assert capsys.readouterr().out.splitlines()[-1] == NOTHING
