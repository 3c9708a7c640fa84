"""The ledger: what is appended is read again, a torn line is dropped, a corrupt one is named."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import ledger
from harness.disk import seal, unseal
from harness.ledger import Ledger, Look, Record
from harness.space import Choice, Integer, Log, Range, Uniform
from harness.study import Store, Study


def full(number: int = 0, role: str = "search", seed: int = 0, **fields: object) -> Record:
    """A record with something in every field."""
    record = Record(
        role,
        number,
        seed,
        {"lr": 0.1 + 0.2, "steps": 3, "rewind": True, "rule": "wrong…\nsecond line"},
        "finished",
        {"valid_biased": [[3, 1], [0, 4]]},
        [Look(1, 0.1, {"valid_biased": [[1, 0], [0, 4]]}), Look(2, 1 / 3, {"valid_biased": [[2]]})],
        {"density": 1e-300},
        [{"name": "mine", "key": "k", "seconds": 0.25, "reused": False}],
        2.5,
        "2024-01-01T00:00:00+00:00",
        True,
        ["the mined set is empty"],
        "dcwp: ValueError: “quoted”",
        "Traceback\n  line",
    )
    return dataclasses.replace(record, **fields)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    records = [full(2), full(0, seed=1), full(0), full(1, "confirm"), full(0, "train")]
    written = Ledger(tmp_path / "folder" / "ledger.jsonl")
    for record in records:
        written.append(record)
    read = Ledger(tmp_path / "folder" / "ledger.jsonl")
    assert read.records == written.records == {record.key: record for record in records}
    assert read.of("search") == [full(0), full(0, seed=1), full(2)]
    assert read.of("confirm") == [full(1, "confirm")]


def test_undefined_metrics_survive(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").append(full(metrics={"mining/precision": math.nan}))
    (record,) = Ledger(tmp_path / "l").of("search")
    assert math.isnan(record.metrics["mining/precision"])


def test_keys_are_unique_and_the_last_record_of_a_key_wins(tmp_path: Path) -> None:
    mine = Ledger(tmp_path / "l")
    mine.append(full(status="failed"))
    mine.append(full(seed=1))
    mine.append(full(status="finished", seconds=9.0))
    for each in (mine, Ledger(tmp_path / "l")):
        assert [r.key for r in each.of("search")] == ["search/0/0", "search/0/1"]
        assert each.records["search/0/0"].seconds == 9.0


def test_appending_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []

    def fsync(descriptor: int) -> None:
        synced.append((tmp_path / "l").read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    mine = Ledger(tmp_path / "l")
    mine.append(full())
    line = (tmp_path / "l").read_bytes()
    assert synced == [line, line]  # the file, and the folder that it is new in
    mine.append(full(1))
    assert synced[2:] == [(tmp_path / "l").read_bytes()]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = Ledger(tmp_path / "whole")
    whole.append(full(0))
    first = (tmp_path / "whole").read_bytes()
    whole.append(full(1))
    both = (tmp_path / "whole").read_bytes()
    for end in {*range(len(first), len(both), 23), len(first) + 1, len(both) - 1}:
        torn = tmp_path / "torn"
        torn.write_bytes(both[:end])
        resumed = Ledger(torn)
        assert list(resumed.records) == ["search/0/0"]
        resumed.append(full(2))
        assert list(Ledger(torn).records) == ["search/0/0", "search/2/0"]
        assert torn.read_bytes().count(b"\n") == 2


def test_a_torn_only_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes(b'{"role":"search"' + b"x" * 200_000)
    mine = Ledger(tmp_path / "l")
    assert mine.records == {}
    mine.append(full())
    assert Ledger(tmp_path / "l").records == {"search/0/0": full()}


def test_a_long_torn_line_leaves_the_lines_before_it(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").append(full())
    with (tmp_path / "l").open("ab") as file:
        file.write(b"x" * 200_000)
    Ledger(tmp_path / "l").append(full(1))
    assert list(Ledger(tmp_path / "l").records) == ["search/0/0", "search/1/0"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"0",
        b"[]",
        b'"text"',
        b"{}",
        b'{"looks": []}',
        b'{"looks": [1]}',
        b"\xff\xfe",
        json.dumps(dataclasses.asdict(full()) | {"surprise": 1}).encode(),
    ],
)
def test_a_corrupt_middle_line_is_one_clear_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    mine = Ledger(path)
    mine.append(full(0))
    with path.open("ab") as file:
        file.write(line + b"\n")
    mine.append(full(2))
    with pytest.raises(ValueError, match="ledger.jsonl line 2 is not a record") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_a_record_tells_its_group_tables() -> None:
    record = full(total={"valid_biased": [[3, 1], [0, 4]]})
    aligned = [[True, False], [False, True]]
    first = record.evaluation("valid_biased", aligned, look=0).metrics()
    assert first["accuracy"] == 5 / 8
    assert first["aligned_accuracy"] == (1 / 3 + 1) / 2
    with pytest.raises(KeyError):
        record.evaluation("test", aligned)


# Studies in a store

SPACE: dict[str, Range] = {
    "a": Uniform(0, 1),
    "b": Log(1e-10, 1e-6),
    "c": Integer(1, 5),
    "d": Choice((True, 1, 0.5, "x")),
}


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    return make_study(
        space=SPACE, base={"a": 0.3, "b": 1e-8, "c": 2, "d": "x"}, search_seeds=(0, 1)
    )


def test_a_study_is_read_as_it_was_written(store: Store, study: Study) -> None:
    store.create(study, lookahead=3)
    assert store.open(study.id) == study
    assert store.open(study.id).id == study.id
    assert store.lookahead(study.id) == 3
    assert store.studies() == [study]


def test_creating_a_study_again_keeps_what_is_there(store: Store, study: Study) -> None:
    store.create(study, lookahead=3)
    before = (store.folder(study.id) / "study.json").read_bytes()
    store.create(study, lookahead=9)
    assert (store.folder(study.id) / "study.json").read_bytes() == before


def test_id_changes_with_every_field(study: Study) -> None:
    changes: dict[str, object] = {
        "method": "other", "plugin": "other.py", "dataset": "other", "ratio": 0.5,
        "preset": "paper", "data_seed": 1,
        "device": "cuda", "searcher": "grid", "scheduler": "asha", "select": "ac",
        "search_seeds": (0,), "base": {"a": 0.2}, "space": {"a": Uniform(0, 2)}, "code": "edited",
        "aligned": [[False, True], [True, False]], "amp": True,
    }  # fmt: skip
    assert changes.keys() == {field.name for field in dataclasses.fields(study)}
    ids = {dataclasses.replace(study, **{name: value}).id for name, value in changes.items()}
    assert len(ids | {study.id}) == len(changes) + 1


def test_a_store_of_a_newer_version_is_refused(store: Store, study: Study) -> None:
    store.create(study, lookahead=1)
    path = store.folder(study.id) / "study.json"
    data = unseal(path.read_text())
    path.write_text(seal(data | {"version": ledger.VERSION + 1}))
    for action in (
        lambda: store.open(study.id),
        store.studies,
        lambda: store.create(study, lookahead=1),
    ):
        with pytest.raises(ValueError, match="store version 3, newer than this harness reads"):
            action()


@pytest.mark.parametrize("text", ["", "{", "null", "{}", '{"version": "x"}'])
def test_an_unreadable_study_is_one_clear_error(store: Store, study: Study, text: str) -> None:
    store.create(study, lookahead=1)
    (store.folder(study.id) / "study.json").write_text(text)
    with pytest.raises(ValueError, match="cannot read .*study.json"):
        store.open(study.id)


def test_winner_is_the_best_mean_over_search_seeds_and_the_earliest_of_equals(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(search_seeds=(0, 1))
    mine = Ledger(tmp_path / "l")
    assert study.winner(mine) is None

    def add(number: int, seed: int, hits: int, status: str = "finished") -> None:
        look = Look(1, 1.0, {"valid_unbiased": [[hits, 0], [0, 0]]})
        total = {"valid_unbiased": [[10, 0], [0, 0]]}
        mine.append(full(number, seed=seed, status=status, looks=[look], total=total))

    add(0, 0, 5), add(0, 1, 7)
    add(1, 0, 9), add(1, 1, 9, "failed")  # of two seeds only one counts, so the trial does not
    add(2, 0, 10)  # still running
    add(3, 0, 6), add(3, 1, 6)
    add(4, 0, 3), add(4, 1, 4)
    add(5, 0, 10, "stopped"), add(5, 1, 10, "stopped")
    assert study.trial_values(mine) == {0: 0.6, 3: 0.6, 4: pytest.approx(0.35)}
    assert study.winner(mine) == 0


def test_a_version_1_store_is_read_and_brought_up_to_date(store: Store, study: Study) -> None:
    store.create(study, lookahead=3)
    path = store.folder(study.id) / "study.json"
    path.write_text(json.dumps(unseal(path.read_text()) | {"version": 1}))
    lines = store.folder(study.id) / "ledger.jsonl"
    old = full(looks=full().looks[:1])
    lines.write_text(json.dumps(dataclasses.asdict(old)) + "\n")
    assert store.open(study.id) == study
    assert store.ledger(study.id).records == {"search/0/0": old}
    store.create(study, lookahead=1)
    store.ledger(study.id).append(full(1))
    assert unseal(path.read_text())["version"] == ledger.VERSION
    assert store.lookahead(study.id) == 3
    assert list(store.ledger(study.id).records) == ["search/0/0", "search/1/0"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("number", "0", "valid integer"),
        ("total", {"valid_biased": [[3, 1], [0]]}, "inhomogeneous"),
        ("total", {"valid_biased": [[3, 1], [0, 3]]}, "do not allow"),
        ("total", {}, "valid_biased"),
        ("looks", [], "without a look"),
    ],
)
def test_an_unsealed_record_that_cannot_be_is_refused(
    tmp_path: Path, field: str, value: object, reason: str
) -> None:
    old = dataclasses.asdict(full(looks=full().looks[:1]))
    (tmp_path / "l").write_text(json.dumps(old) + "\n")
    assert Ledger(tmp_path / "l").records
    (tmp_path / "l").write_text(json.dumps(old | {field: value}) + "\n")
    with pytest.raises(ValueError, match=f"line 1 is not a record .*{reason}"):
        Ledger(tmp_path / "l")


def test_a_changed_number_is_not_read(store: Store, study: Study) -> None:
    store.create(study, lookahead=1)
    store.ledger(study.id).append(full())
    path = store.folder(study.id) / "ledger.jsonl"
    line = path.read_text()
    path.write_text(line.replace("[[1,0],[0,4]]", "[[1,0],[0,3]]"))
    assert path.read_text() != line
    with pytest.raises(ValueError, match="line 1 is not a record .*store repair"):
        store.ledger(study.id)


def test_a_changed_study_is_not_read(store: Store, study: Study) -> None:
    store.create(study, lookahead=1)
    path = store.folder(study.id) / "study.json"
    path.write_text(path.read_text().replace('"data_seed": 0', '"data_seed": 1'))
    with pytest.raises(ValueError, match="not as it was written"):
        store.open(study.id)
    data = unseal(path.read_text().rpartition(',"seal"')[0] + "}")  # as of version 1
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="holds the study tiny-12.5-toy"):
        store.open(study.id)


def test_a_full_disk_leaves_the_ledger_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Ledger(tmp_path / "l")
    mine.append(full())
    before = (tmp_path / "l").read_bytes()
    real = os.write

    def fill_up(descriptor: int, content: memoryview) -> int:
        if len(content) < 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[:100])

    monkeypatch.setattr(os, "write", fill_up)
    with pytest.raises(OSError, match="No space left"):
        mine.append(full(1))
    monkeypatch.undo()
    assert (tmp_path / "l").read_bytes() == before
    assert list(mine.records) == ["search/0/0"]
    mine.append(full(1))
    assert Ledger(tmp_path / "l").records == mine.records
