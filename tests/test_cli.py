"""The command line as typed: what it prints, how it refuses, how fast it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main

SWEEP = ["sweep", "--method", "dcwp", "--dataset", "synthetic"]
DATA = ["--data-root", "data"]


def harness(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=cwd, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sweep", "--method", "dcpw", "--dataset", "cmnist"], "Did you mean 'dcwp'?"),
        (["sweep", "--method", "dcwp", "--dataset", "cmnst"], "Did you mean 'cmnist'?"),
        ([*SWEEP, "--set", "prune.lrr=1"], "Did you mean 'prune.lr'?"),
        ([*SWEEP, "--set", "prune.lr=-1"], "prune.lr='-1': Input should be greater than 0"),
        ([*SWEEP, "--set", "prune.lr"], "write --set NAME=VALUE"),
        ([*SWEEP, "--fix", "prunelr"], "unknown hyperparameter 'prunelr'"),
        ([*SWEEP, "--search", "retrain.rewind"], "no range of its own"),
        ([*SWEEP, "--search", "prune.lr=2:1"], "low < high"),
        ([*SWEEP, "--search", "prune.lr=-1:1"], "prune.lr=-1.0: Input should be greater than 0"),
        ([*SWEEP, "--preset", "papr"], "Did you mean 'paper'?"),
        ([*SWEEP, "--select", "unbiasd"], "Did you mean 'unbiased'?"),
        ([*SWEEP, "--searcher", "tpee"], "Did you mean 'tpe'?"),
        ([*SWEEP, "--scheduler", "ash"], "Did you mean 'asha'?"),
        ([*SWEEP, "--scheduler", "asha", "--search-seeds", "2"], "use one search seed"),
        ([*SWEEP, "--ratio", "0"], "(0, 100] percent, but got 0"),
        ([*SWEEP, "--ratio", "101"], "(0, 100] percent, but got 101"),
        ([*SWEEP, "--trials", "0"], "'--trials'"),
        ([*SWEEP, "--device", "tpu"], "unknown device 'tpu'"),
        ([*SWEEP, "--space", "none.toml"], "cannot read the space file none.toml"),
        ([*SWEEP, "--store", "/proc/nowhere"], "cannot write the store /proc/nowhere"),
        ([*SWEEP, "--tracking-uri", "ftp://host"], "cannot track at 'ftp://host'"),
        ([*SWEEP, "--data-root", "/proc/nowhere"], "/proc/nowhere"),
        ([*SWEEP, "--set", "backbone.weights=none.pt"], "no weights file at none.pt"),
        (["methods", "ermm"], "Did you mean 'erm'?"),
        (["data", "show", "cifar"], "Did you mean 'cifar10c'?"),
        (["leaderboard", "--format", "htm"], "Did you mean 'html'?"),
        (["data", "prepare", "synthetic", "--ratio", "-1"], "(0, 100] percent, but got -1"),
        (
            ["data", "prepare", "waterbirds", *DATA],
            "metadata.csv. Get Waterbirds from nlp.stanford.edu",
        ),
        (["data", "show", "cifar10c:7"], "takes a parameter column 1 to 5"),
        (["data", "show", "cmnist:2"], "cmnist takes no argument, but got '2'"),
        (["data", "show", "folder:nowhere"], "is not a folder"),
        (
            ["data", "show", "bffhq", "--ratio", "3"],
            "conflict ratio 0.5, 1, 2, 5 percent, but got 3",
        ),
        (
            ["data", "show", "synthetic", *DATA, "--image", "no/where.png"],
            "cannot write no/where.png",
        ),
        (["sweep", "--method", "erm", "--dataset", "bar"], "use one of average, worst-class"),
        (["leaderboard", "--results", "none.csv"], "cannot read none.csv"),
        (["leaderboard", "--checkpoint", "lst"], "Did you mean 'last'?"),
        (["leaderboard", "--failures", "drop"], "unknown treatment of failures 'drop'"),
        (["swep"], "No such command 'swep'"),
        (["sweep", "--dataset", "cmnist"], "Missing option '--method'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as stop:  # in this process: a new one takes seconds to import
        main()
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert len(errors.strip().splitlines()) == 1
    assert says in errors
    assert not list(tmp_path.glob("**/ledger.jsonl"))


def test_a_space_file_replaces_the_default_space(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(
        "[prune]\nlr = {kind = 'log', low = 1e-3, high = 1e-2}\nupweight = {values = [10, 80]}\n"
    )
    done = harness(*SWEEP, "--space", "space.toml", "--dry-run", cwd=tmp_path)
    assert "searched: prune.lr in 0.001 … 0.01 (log), prune.upweight in 10 | 80" in done.stdout
    (tmp_path / "space.toml").write_text("prune.lr = 3\n")
    done = harness(*SWEEP, "--space", "space.toml", cwd=tmp_path)
    assert done.returncode == 2 and "prune.lr = 3 is no range" in done.stderr


def test_a_dry_run_says_what_is_shared_and_writes_nothing(tmp_path: Path) -> None:
    done = harness(*SWEEP, "--trials", "7", "--search", "mining.lr", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 search runs" in done.stdout
    assert "stage pretrain: shared by trials" in done.stdout
    assert "stage mine: one per trial: depends on mining.lr" in done.stdout
    assert not (tmp_path / "harness-store").exists()


def test_methods_and_datasets_are_listed_and_explained(tmp_path: Path) -> None:
    assert {"dcwp", "erm"} <= set(harness("methods", cwd=tmp_path).stdout.split())
    one = harness("methods", "dcwp", cwd=tmp_path).stdout
    assert "prune.sparsity_weight" in one and "1e-09" in one and "lambda_l1" in one
    assert {"cmnist", "cifar10c"} <= set(harness("data", "list", cwd=tmp_path).stdout.split())
    root = ["--data-root", str(tmp_path / "data")]
    card = harness("data", "show", "synthetic", *root, cwd=tmp_path).stdout
    assert "not on disk: `harness data prepare synthetic --ratio 1`" in card
    assert harness("data", "prepare", "synthetic", *root, cwd=tmp_path).returncode == 0
    card = harness("data", "show", "synthetic", *root, cwd=tmp_path).stdout
    assert "train" in card and "2000" in card


def test_train_tests_one_run_and_remembers_it(tmp_path: Path) -> None:
    words = [
        "train", "--method", "erm", "--dataset", "synthetic", "--seed", "3", "--preset", "quick",
        "--set", "training.steps=4", "--data-root", "data",
    ]  # fmt: skip
    first = harness(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "test" in first.stdout
    (ledger,) = tmp_path.glob("harness-store/studies/*/ledger.jsonl")
    record = json.loads(ledger.read_text())
    assert (record["role"], record["seed"], record["status"]) == ("train", 3, "finished")
    again = harness(*words, cwd=tmp_path)
    assert again.returncode == 0
    assert len(ledger.read_text().splitlines()) == 1
    assert "no confirmed results" in harness("leaderboard", cwd=tmp_path).stdout


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "harness-store" / "studies" / "x"
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"version": 99}))
    done = harness("leaderboard", cwd=tmp_path)
    assert done.returncode == 2
    assert "store version 99" in done.stderr and "upgrade the harness" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'optuna', 'scipy', 'numpy'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
