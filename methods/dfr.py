"""DFR: deep feature reweighting (Kirichenko, Izmailov and Wilson, ICLR 2023, arXiv:2204.02937).

A network is trained by plain cross-entropy; its last layer is then fitted anew, by L1-penalised
logistic regression on group-balanced subsets of held-out data, averaged over subsets. The held-out
data are the unbiased validation split with its bias labels.

Defaults follow the authors' code on Waterbirds. The penalty is chosen once: fitted to a balanced
subset of a random half of the split, judged by worst-group accuracy on the other half. The refits
use the whole split. The first stages are those of DCWP and MRM, which share their results where the
settings are equal.

Departures from the authors' code:
1. The rules `unbiased`, `worst-group`, `ac` and the other ones that read the unbiased validation
   split select trials on the very samples that the last layer is fitted to, so they flatter DFR in
   the search (never in the test).
2. A group without a sample in a half or in the split takes no part; theirs have none.
3. The base network is trained under the data set's own augmentation and by steps, not epochs.
4. More than two classes are fitted one against the rest, as liblinear does, and liblinear's own
   random numbers are the same in each refit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.losses import group_ids
from harness.nets import Backbone, Net
from harness.optimization import Training
from harness.pretraining import initialise, load, pretrain
from harness.space import Choice

GRIDS = {
    "waterbirds": (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
    "celeba": (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
}
"""The authors' inverse penalties C."""


@dataclass(frozen=True)
class LastLayer:
    """How the last layer is fitted."""

    grid: Literal["waterbirds", "celeba"] = tunable(
        "waterbirds",
        "The inverse penalties to choose from: 1 … 0.01, or 3 … 0.003.",
        Choice(("waterbirds", "celeba")),
    )
    scaler: Literal["train", "validation"] = tunable(
        "train",
        "Standardise features by the training set or, as the authors' later code, by the split.",
        Choice(("train", "validation")),
    )
    refits: PositiveInt = tunable(20, "Fits to balanced subsets that are averaged.")


@dataclass(frozen=True)
class DFR(Method):
    """Deep feature reweighting: refit the last layer on balanced held-out data (ICLR 2023)."""

    name = "dfr"
    backbone: Backbone = Backbone()
    pretrain: Training = Training(
        steps=15_000, batch_size=32, optimizer="sgd", lr=1e-3, weight_decay=1e-3
    )
    last_layer: LastLayer = LastLayer()

    @property
    def uses_bias_labels(self) -> bool:
        """Those of the unbiased validation split."""
        return True

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Yields the base network, then the one with the new last layer."""
        initial = run.stage(initialise, train, self.backbone)
        dense = run.stage(pretrain, train, self.backbone, self.pretrain, initial)
        held_out, attributes = run.validation("valid_unbiased")
        net = load(train, self.backbone, dense)
        yield net

        config = self.last_layer
        features = extract(net, held_out)  # (M, D)
        labels = held_out.labels.cpu()
        groups = group_ids(labels, attributes.cpu())  # (M,)
        c = choose_penalty(features, labels, groups, GRIDS[config.grid])
        run.log(inverse_penalty=c)
        scaler = Scaler(extract(net, train) if config.scaler == "train" else features)
        scaled = scaler(features)
        heads = []
        for refit in range(config.refits):
            train.observe(refit + 1, config.refits)
            subset = balanced_subset(groups)
            heads.append(fit_head(scaled[subset], labels[subset], c))
        set_head(net, torch.stack(heads).mean(0), scaler)
        yield net


@torch.no_grad()
def extract(net: Net, data: TrainingSet) -> Tensor:
    """(M, D) float64 features of every sample on the CPU, without augmentation."""
    net.eval()
    return torch.cat([net.features(b.images).cpu() for b in data.ordered(1000)]).double()


class Scaler:
    """Standardises features as the given ones; constant features are only centred."""

    def __init__(self, features: Tensor) -> None:
        self.mean = features.mean(0)  # (D,)
        std = features.std(0, correction=0)
        self.std = torch.where(std > 0, std, 1.0)  # (D,)

    def __call__(self, features: Tensor) -> Tensor:
        """(M, D) -> (M, D)."""
        return (features - self.mean) / self.std


def balanced_subset(groups: Tensor) -> Tensor:
    """Positions of equally many random samples of each group: as many as the smallest has."""
    present, counts = groups.unique(return_counts=True)
    order = torch.randperm(len(groups))
    smallest = int(counts.min())
    return torch.cat([order[groups[order] == group][:smallest] for group in present])


def choose_penalty(
    features: Tensor, labels: Tensor, groups: Tensor, grid: tuple[float, ...]
) -> float:
    """The C of best worst-group accuracy on one random half when fitted to the other."""
    judged, fitted = torch.randperm(len(labels)).tensor_split(2)
    fitted = fitted[balanced_subset(groups[fitted])]
    scaler = Scaler(features[fitted])

    def worst_group_accuracy(c: float) -> float:
        head = fit_head(scaler(features[fitted]), labels[fitted], c)
        right = predict(head, scaler(features[judged])) == labels[judged]
        return min(
            right[groups[judged] == g].double().mean().item() for g in groups[judged].unique()
        )

    return max(grid, key=worst_group_accuracy)


def fit_head(features: Tensor, labels: Tensor, c: float) -> Tensor:
    """(C, D + 1) L1-penalised logistic regression, one class against the rest; the last is bias."""

    def against_rest(label: int) -> Tensor:
        model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", random_state=0)
        model.fit(features.numpy(), (labels == label).numpy())
        return torch.tensor([*model.coef_[0], *model.intercept_])  # (D + 1,)

    classes = int(labels.max()) + 1
    if classes == 2:  # one problem, whose logit is the difference of the two
        second = against_rest(1) / 2
        return torch.stack([-second, second])
    return torch.stack([against_rest(label) for label in range(classes)])


def predict(head: Tensor, features: Tensor) -> Tensor:
    """(M,) predicted class."""
    return (features @ head[:, :-1].T + head[:, -1]).argmax(1)


@torch.no_grad()
def set_head(net: Net, head: Tensor, scaler: Scaler) -> None:
    """Gives `net` a head that reads raw features as `head` (C, D + 1) reads scaled ones."""
    weight = head[:, :-1] / scaler.std
    net.head.weight.copy_(weight)
    net.head.bias.copy_(head[:, -1] - weight @ scaler.mean)
