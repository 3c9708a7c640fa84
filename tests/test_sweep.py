"""The main job as typed: a real sweep through Ray, Optuna and MLflow. Faults: tests/faults."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.faults import lab

HARNESS = [sys.executable, "-m", "harness"]
SWEEP = ["sweep", *lab.SWEEP]


def command(store: Path, data_root: Path, *words: str) -> list[str]:
    return [*HARNESS, *words, "--store", str(store), "--data-root", str(data_root)]


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(store: Path) -> list[dict]:
    files = sorted(store.glob("studies/*/ledger.jsonl"))
    lines = [(file, line) for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) | {"study": file.parent.name} for file, line in lines]


def keys(store: Path) -> Counter:
    return Counter((r["study"], r["role"], r["number"], r["seed"]) for r in records(store))


def mlflow_runs(store: Path) -> pd.DataFrame:
    with sqlite3.connect(store / "mlflow.db") as database:
        runs = pd.read_sql("select * from runs where lifecycle_stage = 'active'", database)
        tags = pd.read_sql("select * from tags", database)
    wide = tags.pivot(index="run_uuid", columns="key", values="value").drop(columns="status")
    return runs.join(wide, on="run_uuid")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    store = tmp_path_factory.mktemp("undisturbed")
    run(*command(store, data_root, *SWEEP))
    return store


def test_a_sweep_searches_confirms_and_tests(undisturbed: Path) -> None:
    found = records(undisturbed)
    assert len(found) == 2 * (4 + 2)  # methods x (trials + confirm seeds)
    assert {r["status"] for r in found} == {"finished"}
    search, confirm = ([r for r in found if r["role"] == role] for role in ("search", "confirm"))
    for role, tested in ((search, [False, True]), (confirm, [True, True])):
        assert all(["test" in look["correct"] for look in r["looks"]] == tested for r in role)
    assert {r["seed"] for r in search}.isdisjoint({r["seed"] for r in confirm})
    frame = lab.board(undisturbed)
    assert list(frame["n"]) == [2, 2]
    assert sorted(frame["rank"]) == [1, 2]


def test_trials_share_the_stages_upstream_of_the_search(undisturbed: Path) -> None:
    dcwp = [r for r in records(undisturbed) if "-dcwp-" in r["study"] and r["role"] == "search"]
    stage_keys = {
        name: {stage["key"] for r in dcwp for stage in r["stages"] if stage["name"] == name}
        for name in ("initialise", "pretrain", "mine", "learn_mask")
    }
    assert [len(found) for found in stage_keys.values()] == [1, 1, 1, 4]


def test_mlflow_has_each_run_once_nested_and_finished(undisturbed: Path) -> None:
    runs = mlflow_runs(undisturbed)
    assert set(runs["status"]) == {"FINISHED"}
    roots = runs[runs["harness.study_root"].notna()]
    assert len(roots) == 2
    children = runs.drop(roots.index)
    assert len(children) == 12
    assert not children[["harness.study", "harness.key"]].duplicated().any()
    by_id = runs.set_index("run_uuid")
    for _, child in children.iterrows():
        parent = by_id.loc[child["mlflow.parentRunId"]]
        if child["role"] == "confirm":
            assert parent["role"] == "search"
            assert parent["harness.study"] == child["harness.study"]
        else:
            assert parent["harness.study_root"] == child["harness.study"]


def test_each_study_keeps_the_page_and_optuna_has_its_view(undisturbed: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    for name, start in (("leaderboard.html", "<!doctype html>"), ("leaderboard.md", "# Leader")):
        kept = list((undisturbed / "mlflow-artifacts").rglob(name))
        assert len(kept) == 2  # one per study
        for file in kept:
            assert (text := file.read_text()).lower().startswith(start.lower())
            assert "dcwp" in text and "erm" in text
    storage = JournalStorage(JournalFileBackend(str(undisturbed / "optuna.journal")))
    studies = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}
    assert studies.keys() == {r["study"] for r in records(undisturbed)}
    assert {s.n_trials for s in studies.values()} == {4}


def test_the_same_command_again_trains_nothing(undisturbed: Path, data_root: Path) -> None:
    before = keys(undisturbed)
    output = run(*command(undisturbed, data_root, *SWEEP))
    assert "nothing left to train" in output
    assert keys(undisturbed) == before
    assert len(mlflow_runs(undisturbed)) == 14


def test_more_trials_extend_a_finished_sweep(undisturbed: Path, data_root: Path) -> None:
    before = keys(undisturbed)
    longer = list(SWEEP)
    longer[longer.index("--trials") + 1] = "5"
    run(*command(undisturbed, data_root, *longer))
    searched = sorted(key[1:] for key in keys(undisturbed) - before if key[1] == "search")
    assert searched == [("search", 4, 0), ("search", 4, 0)]


def test_a_method_in_one_file_outside_the_package_reaches_the_leaderboard(
    data_root: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "constant.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from harness import Method, tunable\n"
        "from harness.nets import Backbone, build_net\n"
        "from harness.space import Uniform\n"
        "@dataclass(frozen=True)\n"
        "class Constant(Method):\n"
        "    'Does not train.'\n"
        "    name = 'constant'\n"
        "    scale: float = tunable(1.0, 'Factor on the weights.', Uniform(0.5, 2.0))\n"
        "    def fit(self, train, run):\n"
        "        yield build_net(Backbone(), train.num_classes, train.image_shape)\n"
    )
    words = ["sweep", "--method", "constant", "--plugin", str(plugin), "--dataset", "synthetic"]
    run(*command(tmp_path / "store", data_root, *words, "--trials", "2", "--seeds", "2"))
    (row,) = lab.board(tmp_path / "store").itertuples()
    # What does not train answers with one class: such runs are shown, but left out of the means.
    assert (row.method, row.runs, row.n, row.trials) == ("constant", 2, 0, 2)
