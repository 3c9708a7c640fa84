"""Verification: deterministic methods pass, and chance is caught wherever it enters."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path

import pytest

from harness import datasets
from harness.cli import main
from harness.ledger import Look, Record
from harness.verification import Outcome, compare

CHANCY = '''
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training


@dataclass(frozen=True)
class Chancy(Method):
    """Draws from where it should not, as `inside` and `outside` its stage say."""

    name = "chancy"
    backbone: Backbone = Backbone()
    training: Training = Training(steps=4, batch_size=16)
    inside: str = tunable("", "Source of chance in the stage.")
    outside: str = tunable("", "Source of chance in fit.")

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        weights = run.stage(initialise, train, self.backbone, self.inside)
        net = build_net(self.backbone, train.num_classes, train.image_shape)
        net.load_state_dict(weights)
        run.log(undefined=float("nan"))
        descent = Descent(net.parameters(), self.training)
        batches = train.shuffled(self.training.batch_size, self.training.steps)
        for step, batch in enumerate(batches, 1):
            loss = F.cross_entropy(net(batch.images), batch.labels)
            descent.step(loss * (1 + 1e-3 * noise(self.outside)))
            if step % 2 == 0:
                yield net


def initialise(train: TrainingSet, backbone: Backbone, source: str) -> dict[str, Tensor]:
    net = build_net(backbone, train.num_classes, train.image_shape)
    return {name: value + noise(source) for name, value in net.state_dict().items()}


def noise(source: str) -> float:
    match source:
        case "urandom":
            return int.from_bytes(os.urandom(4)) / 2**32
        case "id":
            return id(object()) % 100_003 / 100_003
        case "set order":
            return float("".join(["0.", *set("123456789")]))
        case "death":
            os._exit(9)
        case "failure":
            raise ArithmeticError("too hot")
    return 0.0
'''


@pytest.fixture(scope="module")
def chancy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line that trains it."""
    root = tmp_path_factory.mktemp("verified")
    (root / "chancy.py").write_text(CHANCY)
    datasets.prepare("synthetic", root / "data", 1.0, 0)
    return ["train", "--method", "chancy", "--plugin", str(root / "chancy.py"), "--verify",
            "--dataset", "synthetic", "--device", "cpu", "--data-root", str(root / "data"),
            "--store", str(root / "store")]  # fmt: skip


def verify(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> tuple:
    """Exit code, what was printed by command and runs together, and what went to stderr."""
    monkeypatch.setenv("PYTHONHASHSEED", "77")  # must not make runs agree
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    return end.value.code, [line for line in out.splitlines() if "…" not in line], err


def test_a_deterministic_method_is_said_to_be(
    chancy: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    code, said, err = verify(chancy, monkeypatch, capfd)
    agreed = ["stage initialise", "look 1 (step 2)", "look 2 (step 4)", "metrics", "network"]
    agreed = [f"  {each}: equal" for each in agreed]
    assert said[:-1] == ["second run:", *agreed, "run on stored stages:", *agreed]
    last = r"bit-identical: 1 stages, 2 looks, \d+ parameters, network sha256 [0-9a-f]{64}"
    assert re.fullmatch(last, said[-1])
    assert (code, err) == (0, "")
    assert not Path(chancy[-1]).exists()
    assert os.environ["PYTHONHASHSEED"] == "77"


@pytest.mark.parametrize("source", ["id", "set order"])
def test_chance_in_a_stage_is_caught_there(
    source: str, chancy: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    code, said, _ = verify([*chancy, "--set", f"inside={source}"], monkeypatch, capfd)
    assert said[:2] == [
        "second run:",
        "  stage initialise: DIFFERS: equal arguments, other result",
    ]
    assert said[-1] == (
        "not bit-identical: second run, stage initialise: equal arguments, other result"
    )
    assert code == 1


def test_chance_outside_of_stages_is_caught_at_a_look_or_in_the_network(
    chancy: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    code, said, _ = verify([*chancy, "--set", "outside=urandom"], monkeypatch, capfd)
    assert said[1] == "  stage initialise: equal"
    assert said[-2].startswith("  network: DIFFERS: sha256 ")
    assert said[-1].startswith("not bit-identical: second run, ")
    assert code == 1


@pytest.mark.parametrize(
    ("source", "says", "exit_code"),
    [
        ("failure", "first run failed: chancy: ArithmeticError: too hot", 1),
        ("death", "error: the process of the first run died; is there enough memory?", 2),
    ],
)
def test_a_run_that_comes_to_nothing_says_why(
    source: str, says: str, exit_code: int,
    chancy: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture,
) -> None:  # fmt: skip
    code, said, err = verify([*chancy, "--set", f"outside={source}"], monkeypatch, capfd)
    assert [*said, *err.splitlines()] == [says]
    assert code == exit_code


def differing(first: Outcome, other: Outcome) -> list[str]:
    return [f"{what}: {difference}" for what, difference in compare(first, other) if difference]


def outcome(**changes: object) -> Outcome:
    looks = [
        Look(step, 0.0, {"valid_biased": [[step, 0]], "test": [[step, 9]]}) for step in (10, 20)
    ]
    stages = [
        {"name": "mine", "key": "k1", "seconds": 1.0, "reused": False},
        {"name": "prune", "key": "k2", "seconds": 1.0, "reused": False},
    ]
    record = Record("train", 0, 0, {}, "finished", looks=looks, stages=stages,
                    metrics={"density": 0.5, "hit": math.nan}, seconds=1.0)  # fmt: skip
    return Outcome(dataclasses.replace(record, **changes), ["d1", "d2"], "n1")


def test_equal_outcomes_agree_whatever_the_clock_and_the_cache_say() -> None:
    stages = json.loads(json.dumps(outcome().record.stages))
    stages[0] |= {"seconds": 7.0, "reused": True}
    other = outcome(seconds=9.0, started="2026", stages=stages, warnings=["took 3 s"])
    assert differing(outcome(), other) == []


def test_every_difference_is_named() -> None:
    first = outcome()
    looks, stages = first.record.looks, first.record.stages
    assert differing(first, first._replace(stages=["d1", "x"])) == [
        "stage prune: equal arguments, other result"
    ]
    other = outcome(stages=[stages[0], stages[1] | {"key": "x"}])
    assert differing(first, other) == ["stage prune: called with other arguments"]
    other = outcome(stages=stages[:1])._replace(stages=["d1"])
    assert differing(first, other) == ["stage prune: prune in one, none in the other"]
    moved = dataclasses.replace(looks[1], correct=looks[1].correct | {"test": [[19, 9]]})
    assert differing(first, outcome(looks=[looks[0], moved])) == ["look 2 (step 20): test"]
    moved = dataclasses.replace(looks[1], step=21)
    assert differing(first, outcome(looks=[looks[0], moved])) == [
        "look 2 (step 20): at step 20 and 21"
    ]
    assert differing(first, outcome(looks=looks[:1])) == ["look 2 (step 20): in one run only"]
    assert differing(outcome(looks=looks[:1]), first) == ["look 2 (step 20): in one run only"]
    assert differing(first, outcome(metrics={"density": 0.25})) == ["metrics: density 0.5 and 0.25"]
    assert differing(first, outcome(metrics={"density": 0.5})) == ["metrics: hit nan and None"]
    assert differing(first, first._replace(network="n2")) == ["network: sha256 n1 and n2"]
