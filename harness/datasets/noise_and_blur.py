"""The corruptions of Corrupted CIFAR-10 type 1: noises, blurs and none at all, batched.

Each follows CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019) and the conventions of
`harness.datasets.corruptions`.
"""

import numpy as np

from harness.datasets import imaging
from harness.datasets.corruptions import Corruption
from harness.datasets.imaging import SIZE, Bytes, Generators, normal, to_bytes


def gaussian_noise(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Adds normal noise of one strength."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.1)[column - 1]
    return to_bytes(images / 255 + normal(rngs, 0, scale, SIZE, SIZE, 3))


def shot_noise(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Counts photons: the mean of a value is the value, its variance falls with the rate."""
    rate = (500, 250, 100, 75, 50)[column - 1]
    photons = [rng.poisson(rate * x) for x, rng in zip(images / 255, rngs, strict=True)]
    return to_bytes(np.stack(photons) / rate)


def impulse_noise(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Turns a share of the channels of pixels off (pepper) or fully on (salt), half each."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[column - 1]
    lot = np.stack([rng.random((SIZE, SIZE, 3)) for rng in rngs])
    return np.where(lot < share / 2, 0, np.where(lot < share, 255, images)).astype(np.uint8)


def speckle_noise(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Adds normal noise proportional to the value."""
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[column - 1]
    return to_bytes(images / 255 * normal(rngs, 1, scale, SIZE, SIZE, 3))


def gaussian_blur(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Blurs with a Gaussian."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[column - 1]
    return to_bytes(imaging.gaussian_blur(images / 255, sigma, "nearest"))


def defocus_blur(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Blurs with a disk whose rim is softened by a 3x3 Gaussian."""
    radius, soften = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[column - 1]
    from_centre = np.arange(-3, 4) ** 2  # room for the largest disk, its rim, and zeros around
    disk = from_centre[:, None] + from_centre <= radius**2
    # In single precision, as in the reference: small disks often hit whole numbers, and rounding
    # decides whether truncation keeps them.
    rim = np.exp(-np.abs([-1, 0, 1]) / (2 * soften**2))
    rim = (rim / rim.sum()).astype(np.float32)
    kernel = imaging.correlate(disk[None] / disk.sum(), np.outer(rim, rim))[0].astype(np.float32)
    return to_bytes(imaging.correlate(images / 255, kernel))


def glass_blur(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Replaces pixels by a neighbour, between two Gaussian blurs.

    The reference means to exchange each pixel, from the bottom right, with one at a distance of -1
    or 0 along either axis, the rows and columns 0 and 1 excepted. As it assigns views of one
    array, it copies that neighbour and leaves it in place. No neighbour has been visited by then,
    so that all pixels can be read at once.
    """
    sigma, passes = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[column - 1]
    x = to_bytes(imaging.gaussian_blur(images / 255, sigma, "nearest"))
    moved = np.arange(2, SIZE)
    image = np.arange(len(images))[:, None, None]
    steps = np.stack([rng.integers(-1, 1, (passes, 2, SIZE - 2, SIZE - 2)) for rng in rngs])
    for down, right in steps.transpose(1, 2, 0, 3, 4):  # (N, 30, 30) each
        x[:, 2:, 2:] = x[image, moved[:, None] + down, moved + right]
    return to_bytes(imaging.gaussian_blur(x / 255, sigma, "nearest"))


def motion_blur(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Smears the image along a line within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[column - 1]
    angles = np.radians([rng.uniform(-45, 45) for rng in rngs])
    return imaging.motion_blur(images, radius, sigma, angles)


def zoom_blur(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Averages the image with enlargements of its centre, by 0, 1, 2, ... percent.

    The reference counts in floating point, so that columns 1 and 2 enlarge by the 6 and 11 percent
    at which they were to stop, the others not by 16, 21 and 26.
    """
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[column - 1], 0.01)
    layers = (images / 255).transpose(0, 3, 1, 2).reshape(-1, SIZE, SIZE)
    enlarged = sum(imaging.zoom_in(layers, factor) for factor in factors)
    blurred = (layers + enlarged) / (len(factors) + 1)
    return to_bytes(blurred.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))


def original(images: Bytes, column: int, rngs: Generators) -> Bytes:
    """Leaves the image as it is."""
    return images


def type_one() -> tuple[Corruption, ...]:
    """Returns the ten corruptions of Corrupted CIFAR-10 type 1, by attribute."""
    return (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        original,
    )
