"""DisEnt: disentangled feature augmentation (Lee et al., NeurIPS 2021, arXiv:2107.01372).

An intrinsic and a biased encoder are trained as in LfF, each with a head that reads the embeddings
of both. After a while heads also learn from pairs of an intrinsic embedding and the biased
embedding of another sample, so that the bias no longer tells the label. The classifier is the
intrinsic head on both embeddings of an image.

Defaults follow the authors' code for Colored MNIST. There the sample weights stay those of the
sample with the intrinsic embedding, the exponent of the generalised cross-entropy is fixed at 0.7
(`gce_q` here), swapping begins after step 10,000 (counted from 0) and only from that step on do
steps count towards learning-rate decays, so that the rate falls at steps 20,000, 30,000 and 40,000.

Departures from the authors' code:
1. Batches are permuted by torch's generator instead of numpy's.
2. Features are concatenated as they are; the authors' ResNet pads them with zeros to the width of a
   head that it then ignores.
3. One optimizer holds the parameters of both networks instead of one each; Adam and SGD treat every
   parameter on its own, so the numbers are the same.
4. Where every loss of a class is exactly 0 the trial fails with a message; the authors' weights are
   NaN there.
5. The last step is the result, as everywhere in the harness. The authors keep the checkpoint that
   is best on the test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.disentangled import Disentangled, Disentangling, LateDescent
from harness.losses import LossEma, gce, relative_difficulty
from harness.nets import Backbone
from harness.space import Uniform


@dataclass(frozen=True)
class DisEntTraining(Disentangling):
    """The biased network learns by generalised cross-entropy."""

    gce_q: Annotated[float, Field(gt=0, le=1)] = tunable(
        0.7, "Exponent of the biased network's generalised cross-entropy.", Uniform(0.3, 0.9)
    )


@dataclass(frozen=True)
class DisEnt(Method):
    """Disentangled feature augmentation: LfF on swapped pairs of embeddings (NeurIPS 2021)."""

    name = "disent"
    backbone: Backbone = Backbone("mlp16")
    training: DisEntTraining = DisEntTraining()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains both encoders and heads together."""
        config = self.training
        net = Disentangled(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = LateDescent(net.parameters(), config, start=config.swap_after)
        intrinsic_ema = LossEma(train.labels, config.ema_decay)
        biased_ema = LossEma(train.labels, config.ema_decay)
        batches = train.shuffled(config.batch_size, config.steps, drop_last=True)
        for step, (images, labels, indices) in enumerate(batches):
            z_l, z_b = net.embed(images)  # (B, D) each
            u_l, u_b = net.logits(z_l, z_b)  # (B, C) each
            losses = F.cross_entropy(u_l, labels, reduction="none")  # (B,)
            intrinsic_ema.update(indices, losses)
            biased_ema.update(indices, F.cross_entropy(u_b, labels, reduction="none"))
            weights = relative_difficulty(biased_ema, intrinsic_ema, indices)  # (B,)
            biased_loss = gce(u_b, labels, config.gce_q).mean()
            loss = (weights * losses).mean() + config.bias_weight * biased_loss

            if step > config.swap_after:
                order = torch.randperm(len(labels)).to(run.device)
                u_l, u_b = net.logits(z_l, z_b[order])
                losses = F.cross_entropy(u_l, labels, reduction="none")
                biased_loss = gce(u_b, labels[order], config.gce_q).mean()
                swapped = (weights * losses).mean() + config.swap_bias_weight * biased_loss
                loss = loss + config.swap_weight * swapped

            descent.step(loss)
            if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                yield net
