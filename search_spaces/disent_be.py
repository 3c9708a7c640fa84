"""DisEnt+BE: the authors' settings and settings for a two-core CPU."""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}

# The authors publish none on Corrupted CIFAR-10: those of DisEnt there.
_CIFAR10C_LR = {0.5: 5e-4, 1.0: 1e-3, 2.0: 1e-3, 5.0: 1e-3}
_CIFAR10C_BIAS_WEIGHT = {0.5: 1.0, 1.0: 5.0, 2.0: 5.0, 5.0: 1.0}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults; the nearest published ratio decides."""
    if preset != "paper":
        return dict(_QUICK)
    if dataset == "cmnist":  # the defaults are the authors' settings at all ratios
        return {"backbone.arch": "mlp16", "backbone.weights": "none"}
    if dataset == "cifar10c":
        nearest = min(_CIFAR10C_LR, key=lambda published: abs(published - ratio))
        return {
            "backbone.arch": "resnet18",
            "backbone.weights": "none",
            "member.lr": _CIFAR10C_LR[nearest],
            "training.lr": _CIFAR10C_LR[nearest],
            "training.bias_weight": _CIFAR10C_BIAS_WEIGHT[nearest],
            "training.swap_bias_weight": _CIFAR10C_BIAS_WEIGHT[nearest],
        }
    return {}


# Chosen by measurement on Colored MNIST at 1 %, on one core: 500 steps on 64 samples come further
# than 250 on 128.
_QUICK: Settings = {
    # The authors' committee for Colored MNIST: five members of the CNN would take longer to score
    # the training set than everything else takes.
    "member.arch": "mlp16",
    "member.batch_size": 128,
    "training.batch_size": 64,
    "training.steps": 500,
    "training.swap_after": 150,
    "training.decay_steps": 150,
    "training.lr": 2e-3,
    "training.eval_every": 125,
}
