"""Studies for benchmarks, as the command line composes them, and bare training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from harness import registry
from harness.compose import Choice, compose
from harness.optimization import Descent, Training
from harness.space import Settings, parameters
from harness.study import Study

CPU = torch.device("cpu")


def study_of(method: str, dataset: str, settings: Settings, preset: str = "paper") -> Study:
    """A study of one setting on a data set at 1 % conflicts, with networks trained from scratch."""
    typed = {"backbone.weights": "none"} | settings
    choice = Choice(
        methods=[method],
        datasets=[dataset],
        ratios=[1.0],
        preset=preset,
        device="cpu",
        set=[f"{name}={value}" for name, value in typed.items()],
    )
    return compose(choice, searched=False).studies[0]


def shortened(method: str, steps: int) -> Settings:
    """Settings that give every phase of a method so many steps and a look at its end."""
    known = parameters(registry.load(method))
    return {name: steps for name in known if name.endswith((".steps", ".eval_every"))}


def batches_of(method: str, size: int) -> Settings:
    """Settings that give every phase of a method the same batch size."""
    known = parameters(registry.load(method))
    return {name: size for name in known if name.endswith(".batch_size")}


def bare_step(
    parameters: Iterable[Tensor], config: Training, loss: Callable[[], Tensor]
) -> Callable[[], None]:
    """Forward (`loss`, of a batch that is ready), backward and update: what no loop is without."""
    optimizer = Descent(parameters, config).optimizer

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
