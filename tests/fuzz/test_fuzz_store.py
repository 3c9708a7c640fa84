"""Files of a store that something damaged: stages, ledgers and studies."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import altered, damaged, one_line

from harness import upkeep
from harness.disk import seal
from harness.ledger import Ledger, Look, Record
from harness.stages import StageStore, stage_key
from harness.study import Store, Study

VALUE = {"w": torch.arange(3.0), "n": [1, 2.5, "x"]}
CPU = torch.device("cpu")


def stage():
    return VALUE


KEY = stage_key(stage, [], 0, "cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stages")
    StageStore(root).fetch(KEY, stage, CPU)
    (folder,) = (each for each in root.iterdir() if each.is_dir())
    return root, {file.name: file.read_bytes() for file in folder.iterdir()}, folder


class Attack:
    def __reduce__(self):
        return Path.touch, (Path("attacked"),)


def saved(value, save=torch.save) -> bytes:
    buffer = io.BytesIO()
    save(value, buffer)
    return buffer.getvalue()


@given(st.data())
def test_a_damaged_stage_is_computed_again_and_runs_nothing(stored, data):
    root, files, folder = stored
    manifest = {n: v for n, v in json.loads(files["manifest.json"]).items() if n != "seal"}
    value = data.draw(
        damaged(files["value.pt"])
        | st.sampled_from([saved(Attack()), pickle.dumps(Attack()), saved({"w": 1}), b""])
    )
    honest = manifest | {"sha256": hashlib.sha256(value).hexdigest()}
    text = data.draw(
        damaged(files["manifest.json"])
        | (altered(manifest) | st.just(honest)).filter(lambda each: isinstance(each, dict))
        .map(seal).map(str.encode)
        | altered(honest).map(json.dumps).map(str.encode)
    )  # fmt: skip
    (folder / "value.pt").write_bytes(value)
    (folder / "manifest.json").write_bytes(text)
    store = StageStore(root)
    store.stored_digest(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = store.fetch(KEY, stage, CPU)
    assert not Path("attacked").exists()
    if value == files["value.pt"] or not result.reused:
        assert result.value["w"].equal(VALUE["w"]) and result.value["n"] == VALUE["n"]


RECORD = Record(
    "search", 0, 0, {"lr": 0.1}, "finished", {"valid_unbiased": [[9, 8], [7, 6]]},
    [Look(1, 2.0, {"valid_unbiased": [[5, 4], [3, 2]]})], {"density": 0.5},
)  # fmt: skip
LINE = dataclasses.asdict(RECORD)


@given(damaged((seal(LINE) + "\n").encode() * 2))
def test_a_damaged_ledger_gives_the_records_that_were_written_or_refuses(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "ledger.jsonl"
    path.write_bytes(content)
    try:
        records = Ledger(path).records
    except ValueError as error:
        assert str(path) in one_line(error)
        return
    assert all(record == RECORD for record in records.values())


STUDY = Study(
    "erm", "", "synthetic", 5.0, "quick", 0, "cpu", "tpe", "none", "unbiased", (0,),
    {"lr": 0.1}, {}, "code", [[True, False], [False, True]],
)  # fmt: skip
DEFINITION = {
    "version": 2, "study": STUDY.to_json(), "lookahead": 1,
    "metrics": {"primary": "accuracy", "unbiased": "accuracy"}, "environment": {"cores": "1"},
}  # fmt: skip


@given(
    damaged(seal(DEFINITION).encode())
    | altered(DEFINITION).map(json.dumps).map(str.encode),
    damaged((seal(LINE) + "\n").encode()) | altered(LINE).map(json.dumps).map(
        lambda line: line.encode() + b"\n"),
)  # fmt: skip
def test_a_damaged_store_is_checked_and_opened_without_a_traceback(
    tmp_path_factory, capsys, definition, line
):
    store = Store(tmp_path_factory.mktemp("store"))
    folder = store.folder(STUDY.id)
    folder.mkdir(parents=True)
    (folder / "study.json").write_bytes(definition)
    (folder / "ledger.jsonl").write_bytes(line)
    try:
        (study,) = store.studies()
        store.metrics(study.id), store.lookahead(study.id), store.environment(study.id)
        study.winner(store.ledger(study.id))
    except ValueError as error:
        one_line(error)
    else:
        assert study == STUDY
    assert upkeep.check(store) in (0, 1)
    capsys.readouterr()
