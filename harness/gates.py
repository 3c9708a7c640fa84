"""Gated layers: learn which weights of any network to keep, then fix the choice.

A *gate* is a learnable real number per weight (theta); a *mask* is the binary tensor derived from
it. Every ``Conv2d`` and ``Linear`` weight of a network is gated through
``torch.nn.utils.parametrize``, so a backbone needs no gated twin and no flag in ``forward``.
Biases, normalisation parameters and buffers are never gated.

A gated network has two modes, the ones every module already has:

- ``net.train()``: each forward draws a fresh mask per layer, shared by the whole batch;
- ``net.eval()``: the fixed mask ``theta >= 0``, so a network is evaluated as it would be deployed.

Source: Park et al., CVPR 2023 (DCWP, arXiv:2210.05247), section on debiased weight pruning.
Departures: the logistic noise is the logit of one uniform number per weight; the authors take
two, as the difference of Gumbel variates, which has the same law. Masks are drawn and applied in
one autograd node.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

GateKind = Literal["double_sigmoid", "logit"]


def add_gates(
    net: nn.Module,
    kind: GateKind = "double_sigmoid",
    temperature: float = 1.0,
    init: float = 1.5,
) -> None:
    """Give every convolution and linear weight of `net` a gate, in place.

    Weights stay trainable or frozen as they are. DCWP learns gates on frozen weights: call
    ``net.requires_grad_(False)`` first, then give ``gates(net).values()`` to the optimizer; the
    gradients of the weights are then not computed either. In training mode every *access* to
    ``layer.weight`` draws a mask from the global generator; adding gates draws nothing.

    Args:
        net: Network without gates or masks.
        kind: ``"double_sigmoid"`` keeps a weight with probability sigmoid(sigmoid(theta)), as the
            authors' code does; ``"logit"`` with probability sigmoid(theta).
        temperature: Of the relaxed mask that gradients flow through; the law of the mask itself
            does not depend on it.
        init: Initial theta of every gate.

    Raises:
        ValueError: If `temperature` is not positive, or `net` has gates or a mask already.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature > 0` must hold, but got {temperature=}.")
    for name, layer in _gateable(net):
        gate = _Gate(torch.full_like(layer.weight, init), kind, temperature)
        _parametrize(name, layer, gate)


def apply_mask(net: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Multiply the weights of `net` by a fixed binary mask in every forward, in place.

    Weights that are switched off receive zero gradients. The mask is a buffer, thus follows the
    network across devices and into its state dict.

    Args:
        net: Network without gates or masks.
        mask: For each convolution and linear layer, by name, a tensor of its weight's shape.

    Raises:
        ValueError: If the layers or shapes of `mask` are not those of `net`, or `net` has gates or
            a mask already.
    """
    layers = dict(_gateable(net))
    if layers.keys() != mask.keys():
        differing = sorted(layers.keys() ^ mask.keys())
        raise ValueError(f"the mask and the network must have the same layers, but {differing=}.")
    for name, layer in layers.items():
        if mask[name].shape != layer.weight.shape:
            raise ValueError(
                f"the mask of layer {name!r} must have the shape of its weight "
                f"{tuple(layer.weight.shape)}, but got {tuple(mask[name].shape)}."
            )
        _parametrize(name, layer, _FixedMask(mask[name].to(layer.weight.device, torch.bool)))


def strip(net: nn.Module) -> None:
    """Remove gates or masks in place: the dense weights come back under their plain names."""
    for _, layer in _gateable(net):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def gates(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return theta of every gated layer by layer name, each of its weight's shape."""
    return {
        name: gate.theta
        for name, layer in _gateable(net)
        if (gate := _parametrization(layer)) and isinstance(gate, _Gate)
    }


def read_mask(net: nn.Module) -> dict[str, Tensor]:
    """Return the binary mask ``theta >= 0`` of every gated layer by layer name."""
    return {name: theta.detach() >= 0 for name, theta in gates(net).items()}


def density(mask: Mapping[str, Tensor]) -> float:
    """Return the share of weights that `mask` keeps, over all its layers together."""
    kept = sum(int(layer.count_nonzero()) for layer in mask.values())
    return kept / sum(layer.numel() for layer in mask.values())


def layer_density(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of weights that `mask` keeps in each layer."""
    return {name: density({name: layer}) for name, layer in mask.items()}


def sample_mask(theta: Tensor, noise: Tensor, kind: GateKind, temperature: float) -> Tensor:
    """Draw a binary mask that is differentiable in `theta` by the straight-through estimator.

    For the logit l, which is theta or sigmoid(theta), the relaxed mask is
    s = sigmoid((l + noise) / temperature) and the mask is 1[s > 1/2]; its gradient is taken to be
    that of s. This is the definition; networks use a fused equivalent.

    Args:
        theta: Gates, of any shape.
        noise: Standard logistic variates of the same shape.
        kind: As in `add_gates`.
        temperature: As in `add_gates`.

    Returns:
        Zeros and ones, of `theta`'s shape and dtype.
    """
    logits = _logits(theta, kind) + noise
    relaxed = torch.sigmoid(logits / temperature)
    hard = (logits > 0).to(relaxed.dtype)
    return hard + (relaxed - relaxed.detach())  # the bracket is exactly 0: values stay binary


def logistic_noise(like: Tensor) -> Tensor:
    """Draw standard logistic variates of `like`'s shape from the global generator."""
    uniform = torch.rand_like(like)
    # `rand` can return 0, whose logit is -inf; clamping moves a share of 1e-7 of the draws.
    return uniform.logit_(eps=torch.finfo(like.dtype).eps)


class _SampleAndMask(torch.autograd.Function):
    """``weight * sample_mask(theta, logistic_noise(theta), …)`` as one node.

    The plain formula passes a dozen times over weight-sized temporaries, which costs as much as a
    fifth of a small-image training step on a CPU. Here the forward keeps one (the noisy logits),
    and the backward works in place on two.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, theta: Tensor, kind: GateKind, temperature: float
    ) -> Tensor:
        logits = logistic_noise(theta).add_(_logits(theta, kind))
        ctx.save_for_backward(weight, theta, logits)
        ctx.kind, ctx.temperature = kind, temperature
        return _keep_where_positive(weight, logits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weight, theta, logits = ctx.saved_tensors
        grad_weight = grad_theta = None
        if ctx.needs_input_grad[0]:
            grad_weight = _keep_where_positive(grad, logits)
        if ctx.needs_input_grad[1]:
            # grad · W · s(1-s)/T for the relaxed mask s, times l(1-l) if l = sigmoid(theta).
            relaxed = torch.sigmoid(logits if ctx.temperature == 1 else logits / ctx.temperature)
            grad_theta = grad * weight
            _times_sigmoid_slope(grad_theta, relaxed)
            if ctx.kind == "double_sigmoid":
                _times_sigmoid_slope(grad_theta, torch.sigmoid(theta, out=relaxed))
            if ctx.temperature != 1:
                grad_theta.div_(ctx.temperature)
        return grad_weight, grad_theta, None, None


class _Gate(nn.Module):
    """Parametrization of one weight by its learnable gate."""

    def __init__(self, theta: Tensor, kind: GateKind, temperature: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.kind = kind
        self.temperature = temperature

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return weight * (self.theta >= 0)
        masked: Tensor = _SampleAndMask.apply(weight, self.theta, self.kind, self.temperature)
        return masked


class _FixedMask(nn.Module):
    """Parametrization of one weight by a constant mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _logits(theta: Tensor, kind: GateKind) -> Tensor:
    """Return the logit of the keep probability; the authors use a probability as a logit."""
    return torch.sigmoid(theta) if kind == "double_sigmoid" else theta


def _keep_where_positive(values: Tensor, logits: Tensor) -> Tensor:
    """Return `values` where `logits` > 0, else 0: the backward of ReLU, in one pass over memory."""
    kept: Tensor = torch.ops.aten.threshold_backward(values, logits, 0)
    return kept


def _times_sigmoid_slope(grad: Tensor, output: Tensor) -> None:
    """Multiply `grad` in place by output · (1 - output), the slope of a sigmoid at `output`."""
    torch.ops.aten.sigmoid_backward.grad_input(grad, output, grad_input=grad)


def _gateable(net: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Yield the name and module of every layer whose weight can be gated, in definition order."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module


def _parametrization(layer: nn.Module) -> nn.Module | None:
    """Return the gate or mask of `layer`, or None if its weight is plain."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    parametrizations: Any = layer.parametrizations
    module: nn.Module = parametrizations.weight[0]
    return module


def _parametrize(name: str, layer: nn.Module, parametrization: nn.Module) -> None:
    if _parametrization(layer) is not None:
        raise ValueError(f"layer {name!r} has a gate or mask already; `strip` the network first.")
    # `unsafe` skips a trial forward, which would draw a mask and so advance the generator.
    parametrize.register_parametrization(layer, "weight", parametrization, unsafe=True)
