"""DFR: the base network is DCWP's pre-trained one, so that these methods use one result.

Its authors have no setting for these data sets.
"""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults."""
    if preset == "paper":
        return _ADAM | _PAPER.get(dataset, {})
    return _ADAM | _QUICK | _QUICK_BY_DATASET.get(dataset, {})


_ADAM: Settings = {
    "pretrain.optimizer": "adam",
    "pretrain.beta2": 0.99,
    "pretrain.weight_decay": 0.0,
    "pretrain.batch_size": 256,
    "pretrain.steps": 10_000,
}
_PAPER: dict[str, Settings] = {"cmnist": {"pretrain.lr": 1e-2}, "cifar10c": {"pretrain.lr": 1e-3}}
_QUICK: Settings = {
    "pretrain.batch_size": 128,
    "pretrain.steps": 200,
    "pretrain.lr": 1e-2,
    "last_layer.scaler": "validation",  # spares a pass over the training set
    "last_layer.refits": 2,  # liblinear is slow on hundreds of features
}
_QUICK_BY_DATASET: dict[str, Settings] = {
    "cifar10c": {"pretrain.batch_size": 64, "pretrain.steps": 703, "pretrain.lr": 2e-3},
}
