"""LfF: Learning from Failure (Nam, Cha, Ahn, Lee and Shin, NeurIPS 2020, arXiv:2007.02561).

A biased network is trained with generalised cross-entropy, which attends to what is easy, and a
debiased one beside it with cross-entropy weighted by how much harder a sample is for the biased
network. Both start at once, without warm-up, and the losses that the weights are made of come from
the forward pass that is learned from.

Defaults follow the authors' code for Colored MNIST: moving averages of the per-sample losses at
decay 0.7, each scaled by the largest average of its class over the whole training set, and a
generalised cross-entropy q p^q CE, which is q times as steep as (1 - p^q) / q.

Departures from the authors' code:
1. One optimizer holds the parameters of both networks instead of one each; Adam and SGD treat every
   parameter on its own, so the numbers are the same.
2. Where every loss of a class is exactly 0 the trial fails with a message; the authors' weights are
   NaN there.
3. Their settings for CelebA (all but the head frozen) and their AdamW option are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.losses import LossEma, gce, relative_difficulty
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform


@dataclass(frozen=True)
class LffTraining(Training):
    """How the two networks are trained, side by side."""

    steps: PositiveInt = tunable(23_500, "Optimizer steps; the authors' 100 epochs.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate of both networks.", Log(1e-4, 1e-1))
    gce_q: Annotated[float, Field(gt=0, le=1)] = tunable(
        0.7, "Exponent of the biased network's generalised cross-entropy.", Uniform(0.3, 0.9)
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = tunable(
        0.7, "Weight of the past in each sample's average loss.", Uniform(0.5, 0.95)
    )
    eval_every: PositiveInt = tunable(235, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class LfF(Method):
    """Learning from Failure: upweight what a biased network finds hard (NeurIPS 2020)."""

    name = "lff"
    backbone: Backbone = Backbone("mlp")
    training: LffTraining = LffTraining()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains both networks; the debiased one is the classifier."""
        config = self.training
        biased, debiased = (
            build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
            for _ in range(2)
        )
        descent = Descent([*biased.parameters(), *debiased.parameters()], config)
        biased_ema = LossEma(train.labels, config.ema_decay)
        debiased_ema = LossEma(train.labels, config.ema_decay)
        for step, batch in enumerate(train.shuffled(config.batch_size, config.steps), 1):
            images, labels, indices = batch
            biased_logits = biased(images)
            losses = F.cross_entropy(debiased(images), labels, reduction="none")  # (B,)
            biased_ema.update(indices, F.cross_entropy(biased_logits, labels, reduction="none"))
            debiased_ema.update(indices, losses)
            weights = relative_difficulty(biased_ema, debiased_ema, indices)  # (B,)
            descent.step(
                gce(biased_logits, labels, config.gce_q).mean() + (weights * losses).mean()
            )
            if step % config.eval_every == 0 or step == config.steps:
                yield debiased
