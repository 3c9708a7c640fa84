"""How a network is trained: batch size, steps, optimizer and learning-rate decay, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness.space import Log, tunable


@dataclass(frozen=True)
class Training:
    """Settings of one training phase; a method subclasses it to add fields or move defaults."""

    steps: PositiveInt = tunable(10_000, "Optimizer steps.")
    batch_size: PositiveInt = tunable(256, "Samples per step.")
    optimizer: Literal["adam", "sgd"] = tunable("adam", "Adam, or SGD with momentum 0.9.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-1), on_request=True)
    beta2: PositiveFloat = tunable(0.999, "Second-moment decay of Adam.")
    weight_decay: NonNegativeFloat = tunable(
        0.0, "L2 penalty on all weights.", Log(1e-6, 1e-2), on_request=True
    )
    decay_steps: PositiveInt = tunable(10_000, "Steps between learning-rate decays.")
    decay_factor: PositiveFloat = tunable(1.0, "Learning-rate factor at each decay.")


class Descent:
    """An optimizer with its per-step learning-rate schedule; fresh for every stage.

    ``fused`` performs the update of all tensors in one kernel with the same arithmetic and the
    same eps (1e-8) as the plain optimizers.
    """

    def __init__(self, parameters: Iterable[Tensor], config: Training) -> None:
        if config.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                parameters,
                lr=config.lr,
                betas=(0.9, config.beta2),
                weight_decay=config.weight_decay,
                fused=True,
            )
        else:
            self.optimizer = torch.optim.SGD(
                parameters,
                lr=config.lr,
                momentum=0.9,
                weight_decay=config.weight_decay,
                fused=True,
            )
        self.schedule = torch.optim.lr_scheduler.StepLR(
            self.optimizer, config.decay_steps, config.decay_factor
        )

    def step(self, loss: Tensor) -> None:
        """One update from a scalar loss; gradients of earlier steps never accumulate."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


def state(net: nn.Module) -> dict[str, Tensor]:
    """A detached copy of a network's parameters and buffers, as stages return it."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
