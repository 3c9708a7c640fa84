"""DCWP: Debiased Contrastive Weight Pruning (Park, Lee, Lee and Ye, CVPR 2023, arXiv:2210.05247).

A biased network mines bias-conflicting samples; binary gates on a pre-trained classifier are
learned on batches that lean on them, with a contrastive loss that pulls each sample towards mined
samples of its class; the surviving weights are fine-tuned.

Defaults follow the authors' code, which differs from the paper in places; each is a switch:
oversampling instead of a loss weight (`reweight`), an upweight of 80 while pruning whatever the
upweight of fine-tuning (`prune.upweight`), the signed sum of the gates as sparsity term
(`prune.sparsity`), a sigmoid applied twice (`prune.gate`), positives counted by the partner's mined
flag alone (`contrastive.positives`) and mining under the training augmentation
(`mining.transform`).

Departures from the authors' code:
1. The biased network is its own stage with its own batches. In the authors' code it shares batch
   order (nothing else) with the classifier; for Colored MNIST they train it in a separate process.
2. A batch without a positive pair contributes exactly 0 to the contrastive loss where the authors
   log NaN; the gradients are the same.
3. Weighted batches come from one endless sampler instead of a new loader per step; equal in law.
4. Scores of the training set are accumulated only for the mining rule that reads them.
5. Gates draw one uniform per weight (log u - log(1 - u)) instead of two; the same logistic law.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.gates import add_gates, apply_mask, density, gates, layer_density, read_mask
from harness.losses import confident_cross_entropy, debiased_contrastive, gce, sparsity
from harness.nets import Backbone, Net, build_net
from harness.optimization import Descent, Training
from harness.pretraining import initialise, load, pretrain
from harness.space import Choice, Log, Uniform

GATE_START = 1.5  # every gate's initial value in the authors' code


@dataclass(frozen=True)
class Mining(Training):
    """How bias-conflicting samples are found."""

    beta2: PositiveFloat = tunable(0.99, "Second-moment decay of Adam.")
    rule: Literal["wrong", "ensemble", "oracle"] = tunable(
        "wrong",
        "wrong: misclassified after training; ensemble: mean error along training above `threshold`"
        "; oracle: the true bias labels.",
        Choice(("wrong", "ensemble")),
        on_request=True,
    )
    net: Literal["biased", "target"] = tunable(
        "biased", "Mine with a network of its own, or with the pre-trained classifier."
    )
    loss: Literal["gce", "ce"] = tunable("gce", "Loss of the biased network under rule `wrong`.")
    gce_q: PositiveFloat = tunable(
        0.7, "Exponent of the generalised cross-entropy.", Uniform(0.3, 0.9), on_request=True
    )
    gce_form: Literal["lff", "true"] = tunable(
        "lff", "lff: q p^q CE as in the code of LfF; true: (1 - p^q) / q."
    )
    confidence: NonNegativeFloat = tunable(
        0.05, "Rule ensemble: train on samples whose true class has at least this probability."
    )
    threshold: PositiveFloat = tunable(
        0.8, "Rule ensemble: mine above this mean error.", Uniform(0.5, 0.95), on_request=True
    )
    transform: Literal["train", "eval"] = tunable(
        "train", "Predict training samples with or without random augmentation."
    )


@dataclass(frozen=True)
class Contrastive:
    """The debiased contrastive loss, shared by pruning and fine-tuning."""

    temperature: PositiveFloat = tunable(0.07, "Softmax temperature.", Log(0.02, 0.5))
    positives: Literal["partner_mined", "either_mined", "differ", "all"] = tunable(
        "partner_mined", "Which same-class pairs attract each other."
    )


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
    contrastive_weight: NonNegativeFloat = tunable(
        0.05, "Weight of the contrastive loss while pruning.", Log(5e-3, 0.5)
    )
    gate: Literal["double_sigmoid", "logit"] = tunable(
        "double_sigmoid", "Keep a weight with probability sigmoid(sigmoid(gate)) or sigmoid(gate)."
    )
    gate_temperature: PositiveFloat = tunable(
        1.0, "Temperature of the relaxed gate's gradient.", Log(0.25, 4.0)
    )
    upweight: PositiveFloat = tunable(
        80.0, "Sampling weight of mined samples while pruning.", Log(5.0, 200.0)
    )


@dataclass(frozen=True)
class Retrain(Training):
    """How the surviving weights are fine-tuned."""

    steps: PositiveInt = tunable(1000, "Optimizer steps.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-2))
    beta2: PositiveFloat = tunable(0.99, "Second-moment decay of Adam.")
    contrastive_weight: NonNegativeFloat = tunable(
        0.05, "Weight of the contrastive loss while fine-tuning.", Log(5e-3, 0.5)
    )
    upweight: PositiveFloat = tunable(
        80.0, "Sampling weight of mined samples (lambda_up).", Log(5.0, 200.0)
    )
    rewind: bool = tunable(False, "Start from the initial weights instead of the pre-trained ones.")
    eval_every: PositiveInt = tunable(100, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class DCWP(Method):
    """Debiased Contrastive Weight Pruning: mine, learn a pruning mask, fine-tune (CVPR 2023)."""

    name = "dcwp"
    backbone: Backbone = Backbone()
    mining: Mining = Mining()
    pretrain: Training = Training(beta2=0.99)
    contrastive: Contrastive = Contrastive()
    prune: Prune = Prune()
    retrain: Retrain = Retrain()
    reweight: Literal["sample", "loss"] = tunable(
        "sample", "Upweight mined samples by sampling them more often or by a weighted mean loss."
    )

    @property
    def uses_bias_labels(self) -> bool:
        """Only the oracle reads them."""
        return self.mining.rule == "oracle"

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """The four stages; only fine-tuning is iterated."""
        initial = run.stage(initialise, train, self.backbone)
        dense = run.stage(pretrain, train, self.backbone, self.pretrain, initial)
        if self.uses_bias_labels:
            mined = run.conflicting()
        else:
            target = dense if self.mining.net == "target" else None
            mined = run.stage(mine, train, self.backbone, self.mining, target)  # (N,) bool
        run.audit(mined)
        pruned = run.stage(
            learn_mask, train, self.backbone, self.contrastive, self.prune, self.reweight, dense,
            mined,
        )  # fmt: skip
        run.log(density=density(pruned["mask"]))
        run.log(**{f"density/{n}": d for n, d in layer_density(pruned["mask"]).items()})

        start = initial if self.retrain.rewind else dense | pruned["buffers"]
        net = load(train, self.backbone, start)
        apply_mask(net, pruned["mask"])
        config = self.retrain
        descent = Descent([p for p in net.parameters() if p.requires_grad], config)
        net.train()
        for step, batch in enumerate(draw(train, mined, self.reweight, config), 1):
            descent.step(debiasing_loss(net, batch, self.contrastive, config.contrastive_weight))
            if step % config.eval_every == 0 or step == config.steps:
                yield net


class MinedBatch(NamedTuple):
    """A batch with what pruning and fine-tuning know of each sample."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)
    mined: Tensor  # (B,) bool
    weights: Tensor  # (B,) loss weights; all ones when mined samples are drawn more often instead


def mine(
    train: TrainingSet, backbone: Backbone, config: Mining, target: dict[str, Tensor] | None
) -> Tensor:
    """Stage: (N,) bool, the samples believed to be bias-conflicting.

    Args:
        train: The training set.
        backbone: Architecture of the biased network.
        config: Rule, loss and schedule.
        target: A trained classifier to mine with; None trains a biased network here.
    """
    if config.rule == "ensemble":
        return train_biased_ensemble(train, backbone, config) > config.threshold
    if target is not None:
        net = load(train, backbone, target)
    else:
        net = build_net(backbone, train.num_classes, train.image_shape).to(train.device)
        descent = Descent(net.parameters(), config)
        for batch in train.shuffled(config.batch_size, config.steps):
            logits = net(batch.images)
            if config.loss == "gce":
                loss = gce(logits, batch.labels, config.gce_q, config.gce_form).mean()
            else:
                loss = F.cross_entropy(logits, batch.labels)
            descent.step(loss)
    wrong = [logits.argmax(1) != labels for logits, labels in predict(net, train, config.transform)]
    return torch.cat(wrong)


def train_biased_ensemble(train: TrainingSet, backbone: Backbone, config: Mining) -> Tensor:
    """(N,) mean error 1 - p(label) along the training of one confidence-filtered network.

    The network ignores samples it finds improbable and so stays biased. The training set is scored
    after every floor(N / B) steps; the authors weight each pass by floor(N / B) / steps.
    """
    net = build_net(backbone, train.num_classes, train.image_shape).to(train.device)
    descent = Descent(net.parameters(), config)
    scores = torch.zeros(len(train), device=train.device)
    every = max(len(train) // config.batch_size, 1)
    for step, batch in enumerate(train.shuffled(config.batch_size, config.steps), 1):
        descent.step(confident_cross_entropy(net(batch.images), batch.labels, config.confidence))
        if step % every == 0:
            errors = [
                1 - logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
                for logits, labels in predict(net, train, config.transform)
            ]
            scores += torch.cat(errors) * (every / config.steps)
    return scores


@torch.inference_mode()
def predict(
    net: Net, train: TrainingSet, transform: Literal["train", "eval"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields logits and labels of every training sample, in order, in evaluation mode."""
    net.eval()
    for batch in train.ordered(1000, augment=transform == "train"):
        yield net(batch.images), batch.labels
    net.train()


def learn_mask(
    train: TrainingSet,
    backbone: Backbone,
    contrastive: Contrastive,
    config: Prune,
    reweight: Literal["sample", "loss"],
    dense: dict[str, Tensor],
    mined: Tensor,
) -> dict[str, dict[str, Tensor]]:
    """Stage: which weights to keep.

    Weights and batch-norm parameters stay as they are; batch-norm statistics follow the randomly
    masked network.

    Returns:
        "mask": layer name -> bool, True keeps; "buffers": batch-norm statistics.
    """
    net = load(train, backbone, dense).requires_grad_(False)
    add_gates(net, config.gate, config.gate_temperature, GATE_START)
    learned = list(gates(net).values())
    descent = Descent(learned, config)
    net.train()
    for batch in draw(train, mined, reweight, config):
        loss = debiasing_loss(net, batch, contrastive, config.contrastive_weight)
        descent.step(loss + config.sparsity_weight * sparsity(learned, config.sparsity))
    buffers = {name: value.clone() for name, value in net.named_buffers() if name in dense}
    return {"mask": read_mask(net), "buffers": buffers}


def draw(
    train: TrainingSet, mined: Tensor, reweight: Literal["sample", "loss"], config: Prune | Retrain
) -> Iterator[MinedBatch]:
    """Batches that lean on mined samples by a factor of `config.upweight`."""
    weights = torch.where(mined, config.upweight, 1.0)  # (N,)
    uniform = torch.ones_like(weights)
    sampling, loss = (weights, uniform) if reweight == "sample" else (uniform, weights)
    for batch in train.weighted(sampling, config.batch_size, config.steps):
        at = batch.indices
        yield MinedBatch(batch.images, batch.labels, mined[at], loss[at])


def debiasing_loss(
    net: Net, batch: MinedBatch, contrastive: Contrastive, contrastive_weight: float
) -> Tensor:
    """Weighted mean cross-entropy plus the debiased contrastive loss on the features."""
    features = net.features(batch.images)  # (B, D)
    losses = F.cross_entropy(net.head(features), batch.labels, reduction="none")
    debiased = debiased_contrastive(
        features, batch.labels, batch.mined, contrastive.temperature, contrastive.positives
    )
    return (batch.weights * losses).sum() / batch.weights.sum() + contrastive_weight * debiased
