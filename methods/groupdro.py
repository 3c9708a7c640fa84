"""GroupDRO: group distributionally robust optimisation (Sagawa et al., ICLR 2020).

Minimises a weighted sum of the groups' mean losses, the weights following the losses: each step
multiplies the weight of a group by exp(step_size x loss). Groups are cells of label and bias
attribute, so training reads bias labels. Batches hold every group equally often
(arXiv:1911.08731).

Defaults follow the authors' code on Waterbirds (README: lr 1e-3 with weight decay 1e-4; their paper
also has strong penalties, 1e-5 with 0.1 or 1).

Departures from the authors' code:
1. Groups without a training sample take no part; theirs have none.
2. Durations count steps, not epochs, and no batch is short.
3. The adjustment is one number for all groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.losses import balanced_weights, group_ids
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform


@dataclass(frozen=True)
class RobustTraining(Training):
    """How the network is trained; defaults are 300 epochs of Waterbirds."""

    steps: PositiveInt = tunable(11_100, "Optimizer steps.")
    batch_size: PositiveInt = tunable(128, "Samples per step.")
    optimizer: Literal["adam", "sgd"] = tunable("sgd", "Adam, or SGD with momentum 0.9.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-5, 1e-1))
    weight_decay: NonNegativeFloat = tunable(1e-4, "L2 penalty on all weights.", Log(1e-5, 1.0))
    step_size: PositiveFloat = tunable(
        0.01, "How fast group weights follow group losses (eta).", Log(1e-3, 1.0)
    )
    adjustment: NonNegativeFloat = tunable(
        0.0, "C of the generalisation adjustment C / sqrt(group size).", Uniform(0.0, 5.0),
        on_request=True,
    )  # fmt: skip
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class GroupDRO(Method):
    """Group DRO: minimise the worst groups' losses by weights that follow them (ICLR 2020)."""

    name = "groupdro"
    backbone: Backbone = Backbone()
    training: RobustTraining = RobustTraining()

    @property
    def uses_bias_labels(self) -> bool:
        """They define the groups."""
        return True

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains one network; the group weights are carried from step to step."""
        config = self.training
        groups = group_ids(train.labels, run.bias_labels())  # (N,)
        sizes = torch.bincount(groups)  # (G,)
        q = torch.full_like(sizes, 1 / len(sizes), dtype=torch.float32)  # (G,) group weights
        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), config)
        batches = train.weighted(balanced_weights(groups), config.batch_size, config.steps)
        for step, batch in enumerate(batches, 1):
            losses = F.cross_entropy(net(batch.images), batch.labels, reduction="none")
            by_group = mean_by_group(losses, groups[batch.indices], len(sizes))
            by_group = by_group + config.adjustment / sizes.sqrt()
            q = reweigh(q, by_group, config.step_size)
            descent.step(q @ by_group)
            if step % config.eval_every == 0 or step == config.steps:
                yield net


def mean_by_group(losses: Tensor, groups: Tensor, count: int) -> Tensor:
    """(G,) mean of `losses` (B,) over each of `count` `groups` (B,); 0 for one that is absent."""
    member = F.one_hot(groups, count).to(losses.dtype)  # (B, G)
    return losses @ member / member.sum(0).clamp(min=1)


def reweigh(q: Tensor, losses: Tensor, step_size: float) -> Tensor:
    """(G,) weights `q` after one exponentiated-gradient step on the groups' `losses`; sum 1."""
    raised = q * (step_size * losses.detach()).exp()
    return raised / raised.sum()
