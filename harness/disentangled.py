"""Two encoders with heads that read both, as DisEnt and DisEnt+BE train them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform, tunable


@dataclass(frozen=True)
class Disentangling(Training):
    """How the two encoders are trained, side by side.

    Neither network has gradient from the other's losses, and Adam does not mind the scale of a
    loss: `bias_weight` counts only in proportion to `swap_weight * swap_bias_weight`, and none of
    the three counts before swapping begins.
    """

    steps: PositiveInt = tunable(50_000, "Optimizer steps.")
    lr: PositiveFloat = tunable(1e-2, "Learning rate of both networks.", Log(1e-4, 1e-1))
    decay_factor: PositiveFloat = tunable(0.5, "Learning-rate factor at each decay.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = tunable(
        0.7, "Weight of the past in each sample's average loss.", Uniform(0.5, 0.95)
    )
    swap_after: NonNegativeInt = tunable(
        10_000,
        "Steps, counted from 0, after this one also learn from swapped embeddings; from this one "
        "on steps count towards learning-rate decays (curr_step).",
    )
    bias_weight: NonNegativeFloat = tunable(
        10.0,
        "Weight of the biased network's loss (lambda_dis_align).",
        Log(1.0, 100.0),
        on_request=True,  # with Adam, `swap_bias_weight` covers it
    )
    swap_weight: NonNegativeFloat = tunable(
        1.0, "Weight of both losses on swapped embeddings (lambda_swap).", Log(0.1, 10.0)
    )
    swap_bias_weight: NonNegativeFloat = tunable(
        10.0,
        "Weight of the biased network's loss on swapped embeddings (lambda_swap_align).",
        Log(1.0, 100.0),
    )
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


class Disentangled(nn.Module):
    """An intrinsic and a biased network, whose heads read the embeddings of both.

    As a classifier it is the intrinsic head on both embeddings.

    Attributes:
        intrinsic: Encoder E_l and head C_l (2D -> C).
        biased: Encoder E_b and head C_b (2D -> C).
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.intrinsic = build_net(backbone, num_classes, image_shape)
        self.biased = build_net(backbone, num_classes, image_shape)
        for net in (self.intrinsic, self.biased):
            net.head = nn.Linear(2 * net.feature_dim, num_classes)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the intrinsic and the biased embeddings z_l and z_b, (B, D) each."""
        return self.intrinsic.features(images), self.biased.features(images)

    def logits(self, intrinsic: Tensor, biased: Tensor) -> tuple[Tensor, Tensor]:
        """Returns C_l([z_l; sg z_b]) and C_b([sg z_l; z_b]), (B, C) each.

        sg stops the gradient: a network learns from the logits of its own head alone.
        """
        return (
            self.intrinsic.head(torch.cat([intrinsic, biased.detach()], dim=1)),
            self.biased.head(torch.cat([intrinsic.detach(), biased], dim=1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits C_l([z_l; z_b]), (B, C)."""
        return self.logits(*self.embed(images))[0]


class LateDescent(Descent):
    """Descent whose steps count towards learning-rate decays from step `start` on.

    At `start` 10,000 and decays every 10,000 steps, steps 0 … 19,999 have the first learning rate,
    the next 10,000 the second.
    """

    def __init__(self, parameters: Iterable[Tensor], config: Training, start: int) -> None:
        super().__init__(parameters, config)
        self._start = start
        self._step = 0

    def step(self, loss: Tensor) -> None:
        """One update from a scalar loss; gradients of earlier steps never accumulate."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self._step >= self._start:
            self.schedule.step()
        self._step += 1
