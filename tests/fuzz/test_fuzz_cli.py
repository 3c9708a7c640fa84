"""The command line as typed, up to where something would be trained, fetched or served."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import NUMBERS, ODD, WORDS

from harness import cli

NAMES = st.sampled_from([
    "erm", "dcwp", "synthetic", "cmnist", "cifar10c", "folder:.", "table:t.csv", "folder:~nobody/x",
    "table:", "celeba:x", "synthetic:1", "unbiased", "last", "csv", "html", "tpe", "asha", "quick",
])  # fmt: skip
VALUES = (
    NAMES | NUMBERS | ODD | WORDS | st.text(max_size=4)
    | st.sampled_from(["lr=1e-3", "lr=inf", "lr=1:2", "lr=log:0:1", "lr", "FILE", "DIR", "GONE/x"])
    | st.builds("{}={}".format, st.sampled_from(["lr", "training.steps", "x"]), NUMBERS | ODD)
)  # fmt: skip
OPTIONS = st.sampled_from([
    "--method", "--dataset", "--ratio", "--set", "--fix", "--search", "--space", "--plugin",
    "--preset", "--trials", "--seeds", "--search-seeds", "--searcher", "--scheduler", "--select",
    "--budget-hours", "--trial-timeout", "--concurrency", "--device", "--data-seed", "--seed",
    "--data-root", "--format", "--results", "--results-only", "--metric", "--checkpoint",
    "--failures", "--against", "--no-bias-labels", "--amp", "--fresh", "--help", "--nonsense",
    "--image", "--folder", "--tracking-uri", "--verify",
])  # fmt: skip
FLAGS = {"--results-only", "--no-bias-labels", "--amp", "--fresh", "--help", "--verify"}
STARTS = st.sampled_from([
    ["sweep", "--method", "erm", "--dataset", "synthetic", "--dry-run"],
    ["sweep", "--method", "erm", "--dataset", "cmnist", "--dry-run", "--device", "cpu"],
    ["sweep", "--dry-run"],
    ["train", "--method", "erm", "--dataset", "synthetic"],
    ["leaderboard"], ["leaderboard", "--results-only", "--results", "FILE"],
    ["methods"], ["methods", "erm"], ["new-method", "x", "--folder", "DIR"], ["new-method"],
    ["data", "list"], ["data", "show", "synthetic"], ["data", "show"], ["data", "prepare"],
    ["data", "export", "synthetic", "FILE"], ["store", "check"], ["store", "repair"], ["store"],
    ["sync"], ["ui", "--port"], ["check"], [], ["nonsense"],
])  # fmt: skip
STORES = st.sampled_from(["STORE", "FILE", "GONE", "FILE/below"])


@st.composite
def commands(draw):
    typed = list(draw(STARTS))
    for option in draw(st.lists(OPTIONS, max_size=3)):
        typed += [option] if option in FLAGS else [option, draw(VALUES)]
    if draw(st.integers(0, 5)) == 0:
        typed.append(draw(VALUES))
    if typed[:1] in (["sweep"], ["train"], ["leaderboard"], ["store"], ["sync"]) or not typed:
        typed += ["--store", draw(STORES)]
    return [part.replace("\0", "") for part in typed]  # no system can pass a NUL


class Stopped(ValueError):
    """Where work would begin."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "file").write_text("dataset,method,seed,acc\nd,m,0,5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HARNESS_DATA", str(folder / "data"))

        def stop(*_, **__):
            raise Stopped("stopped here")

        for name in (
            "harness.datasets.store._build", "harness.jobs._owned", "harness.jobs._fetch_weights",
            "harness.tracking.Tracker", "harness.tracking.serve", "harness.verification.verify",
            "harness.commands.Conformance", "harness.optuna_view.write_storage",
        ):  # fmt: skip
            patch.setattr(name, stop)
        yield folder


def run(typed, home, capsys):
    places = {"STORE": home / "store", "FILE": home / "file", "GONE": home / "gone",
              "DIR": home / "made"}  # fmt: skip
    for name, place in places.items():
        typed = [part.replace(name, str(place)) for part in typed]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["harness", *typed])
        cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


@given(commands())
@example(["sweep", "--method", "erm", "--dataset", "folder:~nobody/x", "--dry-run"])
@example(["data", "show", "synthetic", "--data-root", "~nobody/x"])
@example(["sweep", "--method", "erm", "--dataset", "synthetic", "--dry-run",
          "--search", "lr=int:0:1" + "0" * 400])  # fmt: skip
@example(["sweep", "--method", "erm", "--dataset", "synthetic", "--dry-run",
          "--search-seeds", "1" + "0" * 15])  # fmt: skip
def test_any_command_ends_in_a_result_or_one_line(home, capsys, typed):
    before = {path: path.stat().st_size for path in home.rglob("*")}
    code, _, err = run(typed, home, capsys)
    assert code in (0, 1, 2), err
    lines = [line for line in err.splitlines() if line.strip() and "warn" not in line.lower()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in err
    if code:
        assert len(errors) == 1 or err.startswith("Usage") or (code == 1 and not errors), err
    if code == 2 and "stopped here" not in err:
        after = {path: path.stat().st_size for path in home.rglob("*")}
        assert after == before
