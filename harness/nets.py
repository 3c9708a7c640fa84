"""Backbones: features and a linear head, kept apart.

Input is an image batch (B, channels, height, width) of floats, as a method's transform leaves it.
"""

from collections import OrderedDict
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal
from urllib.request import urlopen

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from harness.space import tunable

# The end of the name is the start of the file's sha256.
IMAGENET_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"

# Hidden widths of the multi-layer perceptrons; the last is the feature dimension.
_MLP_WIDTHS = {
    "mlp": (100, 100, 100),  # LfF
    "mlp16": (100, 100, 16),  # DisEnt, BiasEnsemble
    "fcn": (100, 100, 32),  # DCWP
}


@dataclass(frozen=True, config={"extra": "forbid"})
class Backbone:
    """Which network a method trains, and what it starts from."""

    arch: Literal["cnn", "mlp", "mlp16", "fcn", "resnet18", "resnet20"] = tunable(
        "cnn",
        "Architecture: 'cnn' and 'fcn' as in DCWP, 'mlp' and 'resnet20' as in LfF, 'mlp16' as in "
        "DisEnt, 'resnet18' as in torchvision.",
    )
    weights: str = tunable(
        "none",
        "Initial weights: 'none', 'imagenet' (resnet18 only), or the path of a state-dict file; "
        "the head is fresh in any case.",
    )


class Net(nn.Module):
    """A classifier whose penultimate features can be had on their own.

    Attributes:
        features: Maps images (B, channels, height, width) to features (B, D).
        head: Maps features to logits (B, C).
    """

    def __init__(self, features: nn.Module, feature_dim: int, num_classes: int) -> None:
        """Put a fresh linear head on `features`."""
        super().__init__()
        self.features = features
        self.head = nn.Linear(feature_dim, num_classes)

    @property
    def feature_dim(self) -> int:
        """Dimension D of the features."""
        return self.head.in_features

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of `images`."""
        logits: Tensor = self.head(self.features(images))
        return logits


def build_net(backbone: Backbone, num_classes: int, image_shape: tuple[int, int, int]) -> Net:
    """Build a network on the CPU; random weights come from torch's global generator.

    Args:
        backbone: Architecture and initial weights.
        num_classes: Number of classes C.
        image_shape: (channels, height, width) of the images as the network will get them.

    Raises:
        ValueError: If the images do not fit the architecture, or the weights cannot be had or do
            not fit it.
    """
    arch = backbone.arch
    channels, height, width = image_shape
    match arch:
        case "cnn":
            if min(height, width) < 8:
                raise ValueError(
                    f"arch 'cnn' needs images of side 8 or more, but got {image_shape=}."
                )
            net = Net(_cnn(channels), 256, num_classes)
        case "mlp" | "mlp16" | "fcn":
            widths = _MLP_WIDTHS[arch]
            net = Net(_mlp(channels * height * width, widths), widths[-1], num_classes)
        case "resnet18":
            if channels != 3:
                raise ValueError(f"arch 'resnet18' needs RGB images, but got {image_shape=}.")
            net = Net(_resnet18(), 512, num_classes)
        case "resnet20":
            net = Net(_ResNet20(channels), 64, num_classes)
            nn.init.kaiming_normal_(net.head.weight)
    if backbone.weights == "imagenet":
        if arch != "resnet18":
            raise ValueError(
                f"ImageNet weights exist for arch 'resnet18', but got {arch=}; use "
                "`--set backbone.weights=none`."
            )
        _load(net.features, arch, _imagenet_file())
    elif backbone.weights != "none":
        _load(net.features, arch, Path(backbone.weights).expanduser())
    # Convolutions are faster so, on CPUs and GPUs, and read contiguous batches as well.
    return net.to(memory_format=torch.channels_last)


def _cnn(channels: int) -> nn.Sequential:
    """Features of DCWP's CNN for Colored MNIST: three strided convolutions, pooled to 256."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, width in enumerate((64, 128, 256), start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False)
        layers[f"bn{i}"] = nn.BatchNorm2d(width)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        channels = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def _mlp(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Features of the multi-layer perceptrons: linear layers, a ReLU after each."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), rescale=_Rescale())
    for i, width in enumerate(widths, start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, width)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        inputs = width
    return nn.Sequential(layers)


class _Rescale(nn.Module):
    """Divide by 255 images that are in [0, 1] already.

    A quirk of the published perceptrons (LfF, DisEnt, BiasEnsemble, DCWP), kept because it changes
    the dynamics of Adam: inputs of about 4e-3 leave the first layer almost constant at first.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x / 255


def _resnet18() -> nn.Module:
    """Features of torchvision's ResNet-18, names and initialisation included.

    The 7x7 stem and the max pooling stay at any image size: at 32x32, as DCWP and DisEnt have it,
    the last stage works on a single pixel.
    """
    from torchvision.models import resnet18  # takes a second, which no other architecture needs

    features: nn.Module = resnet18()
    features.fc = nn.Identity()
    return features


class _ResNet20(nn.Module):
    """Features of the CIFAR ResNet-20 (He et al., CVPR 2016, section 4.2), as LfF uses it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = _conv3x3(channels, 16)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(
            *(_BasicBlock(16, 16) for _ in range(3)),
            _BasicBlock(16, 32, stride=2),
            *(_BasicBlock(32, 32) for _ in range(2)),
            _BasicBlock(32, 64, stride=2),
            *(_BasicBlock(64, 64) for _ in range(2)),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(images))))  # (B, 64, height / 4, width / 4)
        pooled: Tensor = x.mean(dim=(2, 3))  # (B, 64)
        return pooled


class _BasicBlock(nn.Module):
    """Two convolutions and a parameter-free shortcut ("option A")."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        # Zero channels, half of them on each side, make up for the missing ones.
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.new_channels // 2, self.new_channels // 2))
        out: Tensor = F.relu(residual + shortcut)
        return out


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return conv


def _imagenet_file() -> Path:
    """Return the file of torchvision's official ResNet-18 weights, downloaded if need be."""
    name = IMAGENET_URL.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    if path.is_file():
        return path
    try:
        # torch.hub sets no timeout: ask first, so that a machine without network fails in seconds.
        # The timeout holds for each address of the host, of which there are several.
        urlopen(IMAGENET_URL, timeout=3).close()
        folder.mkdir(parents=True, exist_ok=True)
        sha256 = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(IMAGENET_URL, str(path), sha256, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: wrong checksum
        raise ValueError(
            f"cannot download {IMAGENET_URL} ({error}). Put {name} into {folder}, or name a "
            "copy by `--set backbone.weights=PATH`, or start from random weights by "
            "`--set backbone.weights=none`."
        ) from error
    return path


def _load(features: nn.Module, arch: str, path: Path) -> None:
    """Load the state dict in `path` into `features`; torchvision's ``fc`` is skipped."""
    if not path.is_file():
        raise ValueError(f"no weights file at {path}; correct `--set backbone.weights=PATH`.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is not a file that `torch.save(state_dict)` wrote.") from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds no state dict of tensors; save `net.state_dict()` alone.")

    given = {key: value for key, value in loaded.items() if not key.startswith("fc.")}
    own = features.state_dict()
    faults = {
        # Files older than torch 0.4.1 lack the counters, which play no part in the result.
        "missing": [k for k in own.keys() - given.keys() if not k.endswith("num_batches_tracked")],
        "unexpected": [*(given.keys() - own.keys())],
        "of another shape": [k for k in own.keys() & given if own[k].shape != given[k].shape],
    }
    if any(faults.values()):
        found = ", ".join(
            f"{len(keys)} {fault} (such as {min(keys)!r})" for fault, keys in faults.items() if keys
        )
        raise ValueError(f"{path} does not fit arch {arch!r}: keys {found}.")
    features.load_state_dict(given)
