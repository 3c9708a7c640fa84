"""What a classifier gets right on a split, counted per group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.groups import Evaluation
from harness.training_set import GroupedSplit, PhotoTransform, Transform

_MAX_IMAGES, _MAX_PIXELS = 1000, 1 << 20  # of one batch


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in the mode it was in, as some may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.inference_mode()
def predictions(
    model: nn.Module, split: GroupedSplit, transform: Transform | PhotoTransform
) -> Tensor:
    """Predicted class of every sample, (N,) int64, in evaluation mode; modes are restored.

    Raises:
        FloatingPointError: A logit is not finite.
    """
    device = next(model.parameters()).device
    predicted, finite = [], torch.ones((), dtype=torch.bool, device=device)
    height, width = split.images.shape[2:]
    batch_size = max(1, min(_MAX_IMAGES, _MAX_PIXELS // (height * width)))
    with _evaluating(model):
        for images in split.images.split(batch_size):
            logits = model(transform(images.to(device, non_blocking=True), augment=False))
            finite &= logits.isfinite().all()
            predicted.append(logits.argmax(1))
    if not finite:
        raise FloatingPointError("the classifier's logits are not finite")
    return torch.cat(predicted)


def evaluate(
    model: nn.Module, split: GroupedSplit, transform: Transform | PhotoTransform, aligned: Tensor
) -> Evaluation:
    """Counts a model's correct predictions per group of a split."""
    classes, attributes = aligned.shape
    group = split.labels * attributes + split.attributes  # (N,)
    hit = predictions(model, split, transform).to(split.labels.device) == split.labels
    size = classes * attributes
    return Evaluation(
        torch.bincount(group[hit], minlength=size).view(classes, attributes).numpy(),
        torch.bincount(group, minlength=size).view(classes, attributes).numpy(),
        aligned.numpy(),
    )


def count_parameters(model: nn.Module) -> dict[str, float]:
    """Parameters of a network as it would be deployed, and how many of them its mask keeps."""
    # Gates and what else parametrizes a weight is not deployed; the weight itself is "original".
    deployed = [
        value
        for name, value in model.named_parameters()
        if ".parametrizations." not in f".{name}" or name.endswith(".original")
    ]
    total = sum(value.numel() for value in deployed)
    with _evaluating(model), torch.inference_mode():
        weights = [
            torch.as_tensor(layer.weight)
            for layer in model.modules()
            if parametrize.is_parametrized(layer, "weight")
        ]
    masked = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
    return {"parameters": total, "parameters_kept": total - masked}
