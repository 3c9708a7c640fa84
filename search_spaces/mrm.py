"""MRM: the schedules of DCWP's authors, settings for a two-core CPU, and ranges by data set.

Pre-training is as in `dcwp.py`, so that both methods use one result.
"""

from __future__ import annotations

from harness.space import Log, Range, Settings

SPACES: dict[str, dict[str, Range]] = {
    # As for DCWP: above, gates close whatever the data say.
    "cifar10c": {"prune.sparsity_weight": Log(1e-10, 1e-7)},
}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults."""
    if preset == "paper":
        return dict(_PAPER.get(dataset, {}))
    return _QUICK | _QUICK_BY_DATASET.get(dataset, {})


# Scripts in the history of the authors' repository.
_PAPER: dict[str, Settings] = {
    "cmnist": {
        "pretrain.lr": 1e-2,
        "pretrain.steps": 10_000,
        "prune.sparsity_weight": 1e-8,
        "retrain.lr": 1e-2,
        "retrain.steps": 10_000,
    },
    "cifar10c": {
        "pretrain.lr": 1e-3,
        "pretrain.steps": 10_000,
        "prune.sparsity_weight": 1e-9,
        "retrain.lr": 1e-3,
        "retrain.steps": 20_000,
        "retrain.decay_steps": 10_000,
        "retrain.decay_factor": 0.5,
    },
}

_QUICK: Settings = {
    "pretrain.batch_size": 128,
    "pretrain.steps": 200,
    "pretrain.lr": 1e-2,
    "prune.batch_size": 128,
    "prune.steps": 150,
    "prune.lr": 5e-2,
    "retrain.batch_size": 128,
    "retrain.steps": 250,
    "retrain.lr": 1e-2,
    "retrain.eval_every": 125,
}
_QUICK_BY_DATASET: dict[str, Settings] = {
    "cifar10c": {
        "pretrain.batch_size": 64,
        "pretrain.steps": 703,
        "pretrain.lr": 2e-3,
        "retrain.batch_size": 64,
        "retrain.steps": 703,
        "retrain.lr": 2e-3,
        "retrain.eval_every": 703,
    },
}
