"""A committee of biased networks that agrees on which samples are bias-aligned.

BiasEnsemble (Lee et al., AAAI 2023, arXiv:2205.14594) trains several networks for a short time with
generalised cross-entropy and keeps, as food for a biased network, the samples that most of them are
sure of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from harness.losses import gce
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform, tunable
from harness.training_set import TrainingSet


@dataclass(frozen=True)
class Member(Training):
    """How one member is trained, from scratch and on batches of its own."""

    steps: PositiveInt = tunable(501, "Optimizer steps.")
    lr: PositiveFloat = tunable(1e-2, "Learning rate.", Log(1e-4, 1e-1), on_request=True)
    arch: Literal["same", "mlp16"] = tunable(
        "same",
        "Architecture: that of the classifier, or a perceptron, cheap to score with on a CPU.",
    )
    gce_q: Annotated[float, Field(gt=0, le=1)] = tunable(
        0.7, "Exponent of the generalised cross-entropy.", Uniform(0.3, 0.9), on_request=True
    )


@dataclass(frozen=True)
class Vote:
    """Which samples count as bias-aligned."""

    members: PositiveInt = tunable(5, "Networks in the committee.")
    quorum: PositiveInt = tunable(3, "Members that must be sure of a sample.")
    confidence: Annotated[float, Field(gt=0, lt=1)] = tunable(
        0.99, "A member is sure of a sample whose label has more than this probability.",
        Uniform(0.5, 0.999),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.quorum > self.members:
            raise ValueError(
                f"quorum <= members must hold, but got quorum={self.quorum}, members={self.members}"
            )


def train_member(train: TrainingSet, backbone: Backbone, config: Member, number: int) -> Tensor:
    """A stage: (N,) probability of its label that a briefly trained network gives each sample.

    Samples are scored once, under the training augmentation, in evaluation mode.

    Args:
        train: The training set.
        backbone: Architecture of the classifier.
        config: Architecture of the member, loss and schedule.
        number: Which member; tells the keys and random streams of members apart.
    """
    if config.arch != "same":
        backbone = Backbone(config.arch)
    net = build_net(backbone, train.num_classes, train.image_shape).to(train.device)
    descent = Descent(net.parameters(), config)
    for batch in train.shuffled(config.batch_size, config.steps, drop_last=True):
        descent.step(gce(net(batch.images), batch.labels, config.gce_q).mean())
    net.eval()
    scores = []
    with torch.inference_mode():
        for batch in train.ordered(1000, augment=True):
            p = net(batch.images).softmax(dim=1)  # (B, C)
            scores.append(p.gather(1, batch.labels[:, None]).squeeze(1))  # (B,)
    return torch.cat(scores)


def elect(scores: list[Tensor], vote: Vote) -> Tensor:
    """(N,) bool, the samples that a quorum of members is sure of: those taken for bias-aligned.

    Args:
        scores: Of each member, (N,) probability of the label.
        vote: The rule.
    """
    sure = torch.stack(scores) > vote.confidence  # (members, N)
    return sure.sum(dim=0) >= vote.quorum


def mean_over(losses: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the losses (B,) of the chosen (B,) samples; exactly 0 when there is none.

    The others have zero gradient.
    """
    return torch.where(chosen, losses, 0).sum() / chosen.sum().clamp(min=1)
