"""LfF+BE: LfF on a biased network purified by BiasEnsemble (Lee et al., AAAI 2023).

arXiv:2205.14594. A committee of briefly trained biased networks elects the samples it is sure of;
the biased network of LfF learns from those alone, by cross-entropy, while both networks see every
batch and the sample weights are those of LfF.

Defaults follow the authors' code for Colored MNIST: five members and a quorum of three at
confidence 0.99, scored once under the training augmentation, and 1e-8 added to the class maxima of
the biased network's losses.

Departures from the authors' code:
1. A member is what 501 steps make of it. The authors train 1,000 steps and keep the better of the
   networks after 1 and after 501, by accuracy on a validation split as biased as the training set.
2. Members are stages of their own, with batches of their own; the authors draw all batches from one
   loader.
3. A batch without an elected sample contributes exactly 0, with zero gradients, to the biased
   network's loss; the authors' code raises an error on NaN.
4. One optimizer holds the parameters of both networks instead of one each; Adam and SGD treat every
   parameter on its own, so the numbers are the same.
5. The last step is the result, as everywhere in the harness. The authors keep the checkpoint that
   is best on the test set.
6. The authors did not run Corrupted CIFAR-10; preset paper takes DisEnt's network and learning
   rate there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.committee import Member, Vote, elect, mean_over, train_member
from harness.losses import LossEma, relative_difficulty
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform

EPS = 1e-8  # added to the class maxima of the biased network's losses


@dataclass(frozen=True)
class LffBeTraining(Training):
    """How the two networks are trained, side by side."""

    steps: PositiveInt = tunable(50_000, "Optimizer steps.")
    lr: PositiveFloat = tunable(1e-2, "Learning rate of both networks.", Log(1e-4, 1e-1))
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = tunable(
        0.7, "Weight of the past in each sample's average loss.", Uniform(0.5, 0.95)
    )
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class LfFBE(Method):
    """LfF whose biased network learns only from samples a biased committee is sure of."""

    name = "lff_be"
    backbone: Backbone = Backbone("mlp16")
    member: Member = Member()
    vote: Vote = Vote()
    training: LffBeTraining = LffBeTraining()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Elects samples, then trains both networks; the debiased one is the classifier."""
        scores = [
            run.stage(train_member, train, self.backbone, self.member, number)
            for number in range(self.vote.members)
        ]
        aligned = elect(scores, self.vote)  # (N,) bool
        run.audit(~aligned)

        config = self.training
        biased, debiased = (
            build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
            for _ in range(2)
        )
        descent = Descent([*biased.parameters(), *debiased.parameters()], config)
        biased_ema = LossEma(train.labels, config.ema_decay)
        debiased_ema = LossEma(train.labels, config.ema_decay)
        batches = train.shuffled(config.batch_size, config.steps, drop_last=True)
        for step, (images, labels, indices) in enumerate(batches, 1):
            biased_losses = F.cross_entropy(biased(images), labels, reduction="none")  # (B,)
            losses = F.cross_entropy(debiased(images), labels, reduction="none")  # (B,)
            biased_ema.update(indices, biased_losses)
            debiased_ema.update(indices, losses)
            weights = relative_difficulty(biased_ema, debiased_ema, indices, EPS)  # (B,)
            descent.step(mean_over(biased_losses, aligned[indices]) + (weights * losses).mean())
            if step % config.eval_every == 0 or step == config.steps:
                yield debiased
