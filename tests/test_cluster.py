"""A sweep on a Ray cluster of two nodes, of which one is lost. Takes about a minute."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tests.cluster import NODE, two_nodes
from tests.faults.lab import board
from tests.test_sweep import command, keys, records, run

TRIALS, SEEDS = 10, 2
PLUGIN = f"""
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log


@dataclass(frozen=True)
class Located(Method):
    "Trains for a second, and says on which node."

    name = "located"
    factor: float = tunable(1.0, "Of the loss.", Log(0.1, 10.0))

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        node = os.environ.get({NODE!r}, "")
        run.log(node=float(node.rpartition(".")[2] or 0))
        net = build_net(Backbone("mlp"), train.num_classes, train.image_shape)
        descent = Descent(net.parameters(), Training(steps=40))
        for batch in train.shuffled(64, 40):
            time.sleep(0.025)
            descent.step(self.factor * F.cross_entropy(net(batch.images), batch.labels))
        yield net
"""
TOKEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


def nodes(store: Path) -> list[int]:
    """The last number of the address of the node that computed each record, in order."""
    return [int(record["metrics"]["node"]) for record in records(store)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sweep_uses_both_nodes_and_survives_the_loss_of_one(tmp_path: Path) -> None:
    plugin, data = tmp_path / "located.py", tmp_path / "data"
    plugin.write_text(PLUGIN)
    words = ["sweep", "--method", "located", "--plugin", str(plugin), "--dataset", "synthetic"]
    words += ["--preset", "quick", "--device", "cpu", "--concurrency", "2"]
    words += ["--trials", str(TRIALS), "--seeds", str(SEEDS)]
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "store"
    run(*command(undisturbed, data, *words))

    with two_nodes() as cluster:
        sweep = command(store, data, *words, "--address", cluster.address)
        process = subprocess.Popen(
            sweep,
            env=os.environ | {name: cluster.environment[name] for name in TOKEN},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: len(set(nodes(store))) == 2, process)
            wait_for(lambda: len(list(store.glob("studies/*/progress/*.json"))) == 2, process)
            cluster.other.lose()
            before = len(records(store))
            output, _ = process.communicate(timeout=150)
        finally:
            process.kill()
    assert process.returncode == 0, output
    given_out = Counter(line.partition(" start ")[2] for line in output.splitlines())
    del given_out[""]
    assert sorted(given_out.values()) == [1] * (TRIALS + SEEDS - 1) + [2]  # one was lost
    assert set(nodes(store)[:before]) == {2, 3}
    assert set(nodes(store)[before + 1 :]) == {2}
    assert before < TRIALS + SEEDS - 1
    assert set(keys(store).values()) == {1}  # nothing twice
    assert Counter(r["status"] for r in records(store)) == {"finished": TRIALS + SEEDS}
    pd.testing.assert_frame_equal(board(store), board(undisturbed))
