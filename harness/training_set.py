"""Data as a method sees it: batches of a training set without its bias column.

All images of a split lie on the device as one uint8 tensor. A batch is an index-select, a batched
per-sample augmentation and one conversion to float; no worker processes, no per-sample Python.
Randomness comes from torch's global generator, which the harness seeds for every stage and trial.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """A mini-batch on the training device."""

    images: Tensor  # (B, C, H, W) float32, normalised
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, positions in the training set


@dataclass(frozen=True)
class GroupedSplit:
    """Images with labels and bias attributes; what the harness evaluates on."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    attributes: Tensor  # (N,) int64


@dataclass(frozen=True)
class Transform:
    """From a uint8 batch to what a network reads.

    Args:
        crop_padding: Zero-pad by this many pixels and crop back at a random offset (training only).
        flip: Mirror each image with probability one half (training only).
        mean: Per-channel mean subtracted after division by 255; None to leave out.
        std: Per-channel standard deviation divided by; None to leave out.
    """

    crop_padding: int = 0
    flip: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, images: Tensor, augment: bool) -> Tensor:
        """Maps (B, C, H, W) uint8 to float32; every sample draws its own augmentation."""
        if augment and self.crop_padding:
            images = _random_crop(images, self.crop_padding)
        if augment and self.flip:
            mirrored = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        batch = images.to(torch.float32).div_(255)
        if self.mean is not None:
            batch.sub_(torch.tensor(self.mean, device=batch.device)[:, None, None])
        if self.std is not None:
            batch.div_(torch.tensor(self.std, device=batch.device)[:, None, None])
        return batch

    def output_shape(self, stored: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) that a network reads, from that of the stored images."""
        return stored


@dataclass(frozen=True)
class PhotoTransform:
    """From a uint8 batch of photographs of any size to square network input.

    Training draws a random resized crop and a mirroring per sample; otherwise the shorter side is
    resized and the centre cropped, as torchvision's RandomResizedCrop, Resize and CenterCrop do.

    Departures: crops are resized without the low-pass filter of torchvision, which makes no
    difference while a crop is smaller than `size`, as it is on the data sets that use this.

    Args:
        size: Side of the output.
        resize: Length that the shorter side is resized to before the centre crop.
        scale: Smallest and largest share of the area that a training crop covers.
        ratio: Smallest and largest width over height of a training crop.
        mean: Per-channel mean subtracted after division by 255.
        std: Per-channel standard deviation divided by.
    """

    size: int
    resize: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, augment: bool) -> Tensor:
        """Maps (B, C, H, W) uint8 to (B, C, size, size) float32."""
        batch = images.to(torch.float32).div_(255)
        batch = self._random_resized_crop(batch) if augment else self._centre_crop(batch)
        return _normalise(batch, self.mean, self.std)

    def output_shape(self, stored: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) that a network reads, from that of the stored images."""
        return stored[0], self.size, self.size

    def _random_resized_crop(self, batch: Tensor) -> Tensor:
        count, _, height, width = batch.shape
        left, top, wide, high = self._draw_crops(count, height, width)  # each (B,)
        mirrored = torch.rand(count) < 0.5
        across, down = self._sample(left, wide, width), self._sample(top, high, height)
        across = torch.where(mirrored[:, None], across.flip(1), across)
        across, down = across.to(batch.device)[:, None, :], down.to(batch.device)[:, :, None]
        grid = torch.stack(torch.broadcast_tensors(across, down), -1)  # (B, size, size, 2)
        return F.grid_sample(batch, grid, padding_mode="border", align_corners=False)

    def _draw_crops(self, count: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Left, top, width and height of `count` crops: the first of ten draws that fits.

        Where none fits it is the largest centre crop of a permitted shape.
        """
        area = height * width * torch.empty(10, count).uniform_(*self.scale)
        aspect = torch.empty(10, count).uniform_(*(math.log(each) for each in self.ratio)).exp()
        wide, high = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (10, B)
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        first, fitting = fits.int().argmax(0, keepdim=True), fits.any(0)
        widest = min(width, round(height * self.ratio[1]))
        highest = min(height, round(width / self.ratio[0]))
        wide = torch.where(fitting, wide.gather(0, first)[0], widest)
        high = torch.where(fitting, high.gather(0, first)[0], highest)
        slack = torch.stack([width - wide, height - high])  # (2, B)
        left, top = torch.where(fitting, (torch.rand(2, count) * (slack + 1)).floor(), slack // 2)
        return left, top, wide, high

    def _sample(self, start: Tensor, length: Tensor, side: int) -> Tensor:
        """Where the output pixels of each crop lie along a side of the image, (B, size) in [-1, 1].

        They keep within the centres of a crop's outer pixels, lest its surroundings shine in.
        """
        start, length = start[:, None], length[:, None]
        at = start + length * (torch.arange(self.size) + 0.5) / self.size
        return 2 * at.clamp(start + 0.5, start + length - 0.5) / side - 1

    def _centre_crop(self, batch: Tensor) -> Tensor:
        height, width = batch.shape[2:]
        shorter = min(height, width)
        resized = [int(self.resize * side / shorter) for side in (height, width)]
        batch = F.interpolate(
            batch, resized, mode="bilinear", antialias=True, align_corners=False
        ).clamp_(0, 1)
        top, left = (round((side - self.size) / 2) for side in resized)
        return batch[:, :, top : top + self.size, left : left + self.size]


def _normalise(
    batch: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Tensor:
    if mean is not None:
        batch.sub_(torch.tensor(mean, device=batch.device)[:, None, None])
    if std is not None:
        batch.div_(torch.tensor(std, device=batch.device)[:, None, None])
    return batch


def _random_crop(images: Tensor, padding: int) -> Tensor:
    """Crops each zero-padded image at its own uniform offset, in one gather."""
    count, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    offsets = torch.randint(2 * padding + 1, (2, count), device=images.device)
    return windows[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]


@dataclass(frozen=True)
class BiasedDataset:
    """One biased training split and the splits the harness evaluates on.

    Attributes:
        aligned: (num_classes, num_attributes) bool, the bias-aligned cells.
        evaluation: "test" and the validation splits: "valid_biased", biased like the training set,
            and "valid_unbiased", whose attribute says nothing of the label. A published data set
            may come without the latter.
        fingerprint: Hex digest, equal exactly when the arrays are equal.
    """

    name: str
    ratio: float
    num_classes: int
    num_attributes: int
    transform: Transform | PhotoTransform
    aligned: Tensor
    train: GroupedSplit
    evaluation: dict[str, GroupedSplit]
    fingerprint: str

    def conflicting(self) -> Tensor:
        """(N,) bool, the bias-conflicting training samples."""
        return ~self.aligned[self.train.labels, self.train.attributes]


def training_fingerprint(
    arrays: str, transform: Transform | PhotoTransform, split: str = "train"
) -> str:
    """Digest of all that batches depend on besides the random stream."""
    return hashlib.sha256(f"{arrays} {split} {transform}".encode()).hexdigest()


class TrainingSet:
    """The training split as a method may use it: images and labels, never the bias attribute.

    Args:
        dataset: Where the images come from.
        device: Where they are put.
        observe: Told (steps done, steps in all) as batches are drawn, for progress display.
        split: "train", or a validation split for methods that declare bias labels.
    """

    def __init__(
        self,
        dataset: BiasedDataset,
        device: torch.device,
        observe: Callable[[int, int], None] = lambda done, total: None,
        split: str = "train",
    ) -> None:
        source = dataset.train if split == "train" else dataset.evaluation[split]
        self.device = device
        self.num_classes = dataset.num_classes
        channels, height, width = source.images.shape[1:]
        self.image_shape = dataset.transform.output_shape((channels, height, width))
        self.labels = source.labels.to(device)
        self.observe = observe
        self._images = source.images.to(device)
        self._transform = dataset.transform
        self.fingerprint = training_fingerprint(dataset.fingerprint, dataset.transform, split)

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(
        self, batch_size: int, steps: int, drop_last: bool = False, copies: Tensor | None = None
    ) -> Iterator[Batch]:
        """Yields `steps` augmented batches: epoch after epoch, each a new permutation.

        The short batch at the end of an epoch is kept unless `drop_last`. Sample n occurs
        ``copies[n]`` times in an epoch, (N,) int; once without `copies`.
        """
        pool = torch.arange(len(self))
        if copies is not None:
            pool = pool.repeat_interleave(copies.cpu())
        if drop_last and batch_size > len(pool):
            raise ValueError(f"{batch_size=} must not exceed the {len(pool)} training samples")

        def epochs() -> Iterator[Tensor]:
            while True:
                for indices in pool[torch.randperm(len(pool))].split(batch_size):
                    if not drop_last or len(indices) == batch_size:
                        yield indices

        return self._draw(epochs(), steps)

    def weighted(self, weights: Tensor, batch_size: int, steps: int) -> Iterator[Batch]:
        """Yields `steps` augmented batches drawn i.i.d. with replacement, P(n) ~ weights[n]."""
        drawn = torch.multinomial(weights.cpu().double(), batch_size * steps, replacement=True)
        return self._draw(iter(drawn.split(batch_size)), steps)

    def ordered(self, batch_size: int, augment: bool = False) -> Iterator[Batch]:
        """Yields every sample once, in order."""
        for indices in torch.arange(len(self)).split(batch_size):
            yield self._batch(indices, augment)

    def _draw(self, indices: Iterator[Tensor], steps: int) -> Iterator[Batch]:
        for step in range(steps):
            self.observe(step + 1, steps)
            yield self._batch(next(indices), augment=True)

    def _batch(self, indices: Tensor, augment: bool) -> Batch:
        indices = indices.to(self.device, non_blocking=True)
        images = self._transform(self._images.index_select(0, indices), augment)
        return Batch(images, self.labels[indices], indices)
