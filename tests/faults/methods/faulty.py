"""A method that fails at some settings (`fault`), or once (`HARNESS_FAULTS_ONCE`); else trains."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.space import Choice, Uniform

ONCE = "HARNESS_FAULTS_ONCE"
"""Environment: KIND:PATH; the first trial to create the file fails in that way."""


@dataclass(frozen=True)
class Faulty(Method):
    """Trains a few steps, unless it fails."""

    name = "faulty"
    backbone: Backbone = Backbone()
    scale: float = tunable(0.5, "Factor on the learning rate; above 0.9 it fails.", Uniform(0, 1))
    fault: str = tunable("none", "How it fails.", Choice(("none", "raise", "nan", "hang", "limit")))
    mark: float = tunable(0.9, "Largest scale at which it works.", Uniform(0, 1))

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """See :class:`Method`."""
        batches = train.shuffled(32, 4)
        first = next(batches)  # until here, `fit` is also run to plan a sweep
        kind, _, flag = os.environ.get(ONCE, "").partition(":")
        if flag and _is_first(Path(flag)):
            FAULTS[kind]()
        poison = 1.0
        if self.scale > self.mark and self.fault == "nan":
            poison = float("nan")
        elif self.scale > self.mark and self.fault != "none":
            FAULTS[self.fault]()
        net = build_net(self.backbone, train.num_classes, train.image_shape)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1 * self.scale)
        for batch in (first, *batches):
            loss = poison * F.cross_entropy(net(batch.images), batch.labels)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield net


def _is_first(flag: Path) -> bool:
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _raise() -> None:
    raise RuntimeError("the method's own error")


def _hang() -> None:
    while True:
        time.sleep(1)


def _limit() -> None:
    """Exceeds a limit of the system; given back, for the worker goes on to other trials."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 * 2**20, before[1]))
    try:
        bytearray(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def _eat() -> None:
    """Takes memory until the system ends the process, or 8 GB."""
    taken = []
    for _ in range(128):
        taken.append(b"1" * (64 * 2**20))
        time.sleep(0.05)


FAULTS = {"raise": _raise, "hang": _hang, "limit": _limit, "crash": _crash, "eat": _eat}
