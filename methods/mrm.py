"""MRM: Modular Risk Minimisation (Zhang et al., ICML 2021, arXiv:2106.02890), as run beside DCWP.

Gates on a network trained by plain cross-entropy are learned by plain cross-entropy and a sparsity
term; the weights that survive go back to their initial values and are trained again. No sample is
singled out at any point.

The authors' own code could not be had; this is the MRM mode of DCWP's authors, whose pruning it
shares: the signed sum of the gates as sparsity term (`prune.sparsity`), a sigmoid applied twice
(`prune.gate`) and the threshold 0. The paper's gates are logits (`prune.gate=logit`). The first two
stages are DCWP's and their results are shared with it where the settings are equal.

Departures from the code of DCWP's authors:
1. No contrastive loss is computed, which they do and multiply by 0.
2. Batches after pre-training come from one endless sampler instead of a new loader per step; equal
   in law: i.i.d. draws with replacement.
3. Gates draw one uniform per weight (log u - log(1 - u)) instead of two; the same logistic law.
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
from harness.gates import add_gates, apply_mask, density, gates, layer_density, read_mask
from harness.losses import sparsity
from harness.nets import Backbone
from harness.optimization import Descent, Training
from harness.pretraining import initialise, load, pretrain
from harness.space import Log
from harness.training_set import Batch


@dataclass(frozen=True)
class Prune(Training):
    """How gates are learned, with the weights frozen."""

    steps: PositiveInt = tunable(2000, "Optimizer steps; a gate needs at least 1.5 / lr to close.")
    lr: PositiveFloat = tunable(1e-2, "Learning rate of the gates (Adam).", Log(3e-3, 1e-1))
    sparsity_weight: NonNegativeFloat = tunable(
        1e-8, "Weight of the sparsity term (lambda_l1).", Log(1e-10, 1e-6)
    )
    sparsity: Literal["signed", "l1", "sigmoid"] = tunable(
        "signed", "Sum of the gates, of their absolute values or of their sigmoids."
    )
    gate: Literal["double_sigmoid", "logit"] = tunable(
        "double_sigmoid", "Keep a weight with probability sigmoid(sigmoid(gate)) or sigmoid(gate)."
    )
    gate_temperature: PositiveFloat = tunable(
        1.0, "Temperature of the relaxed gate's gradient.", Log(0.25, 4.0)
    )


@dataclass(frozen=True)
class Retrain(Training):
    """How the surviving weights are trained from their initial values."""

    lr: PositiveFloat = tunable(1e-2, "Learning rate.", Log(1e-4, 1e-1))
    beta2: PositiveFloat = tunable(0.99, "Second-moment decay of Adam.")
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class MRM(Method):
    """Modular Risk Minimisation: learn a pruning mask, rewind, train what survives (ICML 2021)."""

    name = "mrm"
    backbone: Backbone = Backbone()
    pretrain: Training = Training(beta2=0.99)
    prune: Prune = Prune()
    retrain: Retrain = Retrain()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """The stages; only the training of the subnetwork is iterated."""
        initial = run.stage(initialise, train, self.backbone)
        dense = run.stage(pretrain, train, self.backbone, self.pretrain, initial)
        mask = run.stage(learn_mask, train, self.backbone, self.prune, dense)
        run.log(density=density(mask))
        run.log(**{f"density/{n}": d for n, d in layer_density(mask).items()})

        net = load(train, self.backbone, initial)
        apply_mask(net, mask)
        config = self.retrain
        descent = Descent(net.parameters(), config)
        for step, batch in enumerate(draw(train, config), 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step % config.eval_every == 0 or step == config.steps:
                yield net


def learn_mask(
    train: TrainingSet, backbone: Backbone, config: Prune, dense: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Stage: layer name -> bool, True keeps a weight of that layer; weights stay as they are."""
    net = load(train, backbone, dense).requires_grad_(False)
    add_gates(net, config.gate, config.gate_temperature)
    learned = list(gates(net).values())
    descent = Descent(learned, config)
    for batch in draw(train, config):
        loss = F.cross_entropy(net(batch.images), batch.labels)
        descent.step(loss + config.sparsity_weight * sparsity(learned, config.sparsity))
    return read_mask(net)


def draw(train: TrainingSet, config: Training) -> Iterator[Batch]:
    """Uniform batches with replacement."""
    return train.weighted(torch.ones(len(train)), config.batch_size, config.steps)
