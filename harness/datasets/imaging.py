"""What the corruptions are made of: colour spaces, sampling, blur along a line, clouds."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SIZE = 32

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Generators = Sequence[np.random.Generator]


def to_hsv(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """Splits (..., 3) RGB into hue, saturation and value; hue is 0 for greys."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    divisor = np.where(chroma == 0, 1, chroma)
    sixths = np.select(
        [value == red, value == green],
        [(green - blue) / divisor, 2 + (blue - red) / divisor],
        4 + (red - green) / divisor,
    )
    saturation = chroma / np.where(value == 0, 1, value)
    return sixths / 6 % 1, saturation, value


def from_hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Joins hue, saturation and value into (..., 3) RGB."""
    sector = np.floor(hue * 6)
    offset = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - offset * saturation)
    rising = value * (1 - (1 - offset) * saturation)
    index = sector.astype(np.int64) % 6
    return np.stack(
        [
            np.choose(index, [value, falling, low, low, rising, value]),
            np.choose(index, [rising, value, value, falling, low, low]),
            np.choose(index, [low, low, rising, value, value, falling]),
        ],
        axis=-1,
    )


def reflect(index: Indices) -> Indices:
    """Folds indices back at the border: b a | a b c | c b."""
    index = index % (2 * SIZE)
    return np.minimum(index, 2 * SIZE - 1 - index)


def mirror(index: Indices) -> Indices:
    """Folds indices back at the outermost pixel: c b | a b c | b a."""
    index = index % (2 * SIZE - 2)
    return np.minimum(index, 2 * SIZE - 2 - index)


def sample(x: Floats, rows: Floats, cols: Floats, fold: Callable[[Indices], Indices]) -> Floats:
    """Reads (N, 32, 32, 3) images at (N, 32, 32) positions, bilinearly."""
    top, left = np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)
    down, right = (rows - top)[..., None], (cols - left)[..., None]
    image = np.arange(len(x))[:, None, None]

    def read(row: Indices, col: Indices) -> Floats:
        return x[image, fold(row), fold(col)]

    upper = (1 - right) * read(top, left) + right * read(top, left + 1)
    lower = (1 - right) * read(top + 1, left) + right * read(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def motion_blur(layers: Floats, radius: int, sigma: float, angles: Floats) -> Floats:
    """Smears (N, H, W) layers along a line: half a Gaussian, from each pixel in one direction.

    Args:
        layers: Grey layers.
        radius: The line has 2 * radius + 1 pixels.
        sigma: Standard deviation of the Gaussian along the line, in pixels.
        angles: (N,) directions in radians, clockwise from the right.
    """
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    pad = 2 * radius
    padded = np.pad(layers, ((0, 0), (pad, pad), (pad, pad)), "edge")
    count, height, width = layers.shape
    steps = np.rint(taps[:, None] * np.stack([np.sin(angles), np.cos(angles)])[:, None])
    blurred = np.zeros_like(layers)
    for n in range(count):
        for weight, row, col in zip(weights, *steps[:, :, n].astype(int) + pad, strict=True):
            blurred[n] += weight * padded[n, row : row + height, col : col + width]
    return blurred


def plasma(rngs: Generators, decay: float) -> Floats:
    """Diamond-square clouds on a torus, (N, 32, 32) in [0, 1].

    Each level halves the step, sets the new points to the mean of four neighbours plus uniform
    noise of amplitude w**2, and divides w by `decay`.
    """
    cloud = np.zeros((len(rngs), SIZE, SIZE))
    amplitude, step = 100.0, SIZE
    while step >= 2:
        half = step // 2
        cells = SIZE // step
        noise = np.stack([rng.uniform(-1, 1, (3, cells, cells)) for rng in rngs])
        noise *= amplitude**2
        corners = cloud[:, ::step, ::step]
        below = np.roll(corners, -1, 1)
        centres = (corners + below + np.roll(corners + below, -1, 2)) / 4 + noise[:, 0]
        cloud[:, half::step, half::step] = centres
        cloud[:, half::step, ::step] = (
            corners + below + centres + np.roll(centres, 1, 2)
        ) / 4 + noise[:, 1]
        cloud[:, ::step, half::step] = (
            corners + np.roll(corners, -1, 2) + centres + np.roll(centres, 1, 1)
        ) / 4 + noise[:, 2]
        amplitude /= decay
        step = half
    cloud -= cloud.min((1, 2), keepdims=True)
    cloud /= cloud.max((1, 2), keepdims=True)
    return cloud
