"""DisEnt+BE: DisEnt on a biased network purified by BiasEnsemble (Lee et al., AAAI 2023).

arXiv:2205.14594. A committee of briefly trained biased networks elects the samples it is sure of;
wherever DisEnt's biased network learns by generalised cross-entropy, here it learns by
cross-entropy from elected samples alone. All else is DisEnt.

Defaults follow the authors' code for Colored MNIST: five members and a quorum of three at
confidence 0.99, scored once under the training augmentation, and 1e-8 added to the class maxima of
the biased network's losses. On swapped embeddings the sample of the biased embedding decides.

Departures from the authors' code:
1. A member is what 501 steps make of it. The authors train 1,000 steps and keep the better of the
   networks after 1 and after 501, by accuracy on a validation split as biased as the training set.
2. Members are stages of their own, with batches of their own; the authors draw all batches from one
   loader.
3. A batch without an elected sample contributes exactly 0, with zero gradients, to the biased
   network's loss; the authors' code raises an error on NaN.
4. Batches are permuted by torch's generator instead of numpy's, features are concatenated as they
   are, and one optimizer holds the parameters of both networks: as in `methods/disent.py`.
5. The last step is the result, as everywhere in the harness. The authors keep the checkpoint that
   is best on the test set.
6. The authors did not run Corrupted CIFAR-10; preset paper takes the settings of DisEnt there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness import Method, Run, TrainingSet
from harness.committee import Member, Vote, elect, mean_over, train_member
from harness.disentangled import Disentangled, Disentangling, LateDescent
from harness.losses import LossEma, relative_difficulty
from harness.nets import Backbone

EPS = 1e-8  # added to the class maxima of the biased network's losses


@dataclass(frozen=True)
class DisEntBE(Method):
    """DisEnt whose biased network learns only from samples a biased committee is sure of."""

    name = "disent_be"
    backbone: Backbone = Backbone("mlp16")
    member: Member = Member()
    vote: Vote = Vote()
    training: Disentangling = Disentangling()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Elects samples, then trains both encoders and heads together."""
        scores = [
            run.stage(train_member, train, self.backbone, self.member, number)
            for number in range(self.vote.members)
        ]
        aligned = elect(scores, self.vote)  # (N,) bool
        run.audit(~aligned)

        config = self.training
        net = Disentangled(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = LateDescent(net.parameters(), config, start=config.swap_after)
        intrinsic_ema = LossEma(train.labels, config.ema_decay)
        biased_ema = LossEma(train.labels, config.ema_decay)
        batches = train.shuffled(config.batch_size, config.steps, drop_last=True)
        for step, (images, labels, indices) in enumerate(batches):
            elected = aligned[indices]  # (B,)
            z_l, z_b = net.embed(images)  # (B, D) each
            u_l, u_b = net.logits(z_l, z_b)  # (B, C) each
            losses = F.cross_entropy(u_l, labels, reduction="none")  # (B,)
            biased_losses = F.cross_entropy(u_b, labels, reduction="none")  # (B,)
            intrinsic_ema.update(indices, losses)
            biased_ema.update(indices, biased_losses)
            weights = relative_difficulty(biased_ema, intrinsic_ema, indices, EPS)  # (B,)
            biased_loss = mean_over(biased_losses, elected)
            loss = (weights * losses).mean() + config.bias_weight * biased_loss

            if step > config.swap_after:
                order = torch.randperm(len(labels)).to(run.device)
                u_l, u_b = net.logits(z_l, z_b[order])
                losses = F.cross_entropy(u_l, labels, reduction="none")
                biased_losses = F.cross_entropy(u_b, labels[order], reduction="none")
                biased_loss = mean_over(biased_losses, elected[order])
                swapped = (weights * losses).mean() + config.swap_bias_weight * biased_loss
                loss = loss + config.swap_weight * swapped

            descent.step(loss)
            if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                yield net
