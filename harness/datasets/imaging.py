"""What the corruptions are made of: colour spaces, sampling, blurs, clouds, edges."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

SIZE = 32

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Generators = Sequence[np.random.Generator]


def to_bytes(x: Floats) -> Bytes:
    """Casts [0, 1] to 0..255 by truncation, as the reference data do."""
    return (x.clip(0, 1) * 255).astype(np.uint8)


def normal(rngs: Generators, loc: float, scale: float, *shape: int) -> Floats:
    """Draws (N, *shape) normal values, each image's from its own generator."""
    return np.stack([rng.normal(loc, scale, shape) for rng in rngs])


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


def gaussian_blur(
    x: Floats, sigma: float, mode: Literal["reflect", "nearest"], truncate: float = 4
) -> Floats:
    """Applies a Gaussian to each of (N, H, W) layers or (N, H, W, C) images."""
    blurred: Floats = ndimage.gaussian_filter(x, sigma, mode=mode, truncate=truncate, axes=(1, 2))
    return blurred


def zoom_in(layers: Floats, factor: float) -> Floats:
    """Enlarges the centre of (N, 32, 32) layers, linearly, to the full size.

    The outermost pixels of the centre become the outermost of its enlargement, which is trimmed
    if it is larger than the layer.
    """
    side = int(np.ceil(SIZE / factor))
    top = (SIZE - side) // 2
    size = round(side * factor)
    trim = (size - SIZE) // 2
    origins = top + np.linspace(0, side - 1, size)[trim : trim + SIZE]
    before = np.minimum(origins.astype(np.int64), SIZE - 2)
    share = origins - before
    rows = layers[:, before] * (1 - share)[:, None] + layers[:, before + 1] * share[:, None]
    zoomed: Floats = rows[..., before] * (1 - share) + rows[..., before + 1] * share
    return zoomed


def motion_blur(images: Bytes, radius: int, sigma: float, angles: Floats) -> Bytes:
    """Smears images along a line: half a Gaussian, from each pixel in one direction.

    Equals ImageMagick 6.9, the tool of the reference, bit for bit: it rounds to 16 bits per
    channel, and truncates those to 8 when it writes the result.

    Args:
        images: (N, H, W) or (N, H, W, C).
        radius: The line has 2 * radius + 1 pixels.
        sigma: Standard deviation of the Gaussian along the line, in pixels.
        angles: (N,) directions in radians, clockwise from the right.
    """
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    # Halves are rounded down.
    steps = np.ceil(taps[:, None] * np.stack([np.sin(angles), np.cos(angles)])[:, None] - 0.5)
    pad = 2 * radius
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))[: images.ndim]
    padded = np.pad(images.astype(np.float64), around, "edge")
    height, width = images.shape[1:3]
    blurred = np.zeros(images.shape)
    for n in range(len(images)):
        for weight, row, col in zip(weights, *steps[:, :, n].astype(int) + pad, strict=True):
            blurred[n] += weight * padded[n, row : row + height, col : col + width]
    sixteen_bit = np.floor(257 * blurred + 0.5)
    return (sixteen_bit // 257).astype(np.uint8)


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


def correlate(x: Floats | Bytes, kernel: Sequence[Sequence[float]] | Floats) -> Floats:
    """Applies a square kernel to (N, H, W) layers or (N, H, W, C) images, mirrored outside."""
    weights = np.expand_dims(kernel, (0, 3)[: x.ndim - 2])
    filtered: Floats = ndimage.correlate(x, weights, output=np.float64, mode="mirror")
    return filtered


def edges(layers: Bytes, low: int, high: int) -> NDArray[np.bool_]:
    """Finds Canny edges in (N, H, W) layers, the same as OpenCV.

    An edge is a chain of local maxima of the gradient across itself, all above `low` and at least
    one above `high`; the gradient is |right| + |down| after Sobel's 3x3 kernels.
    """
    x = layers.astype(np.int64)

    def sobel(along: int, across: int) -> Indices:
        difference = ndimage.correlate1d(x, [-1, 0, 1], along, mode="nearest")
        smooth: Indices = ndimage.correlate1d(difference, [1, 2, 1], across, mode="nearest")
        return smooth

    down, right = sobel(1, 2), sobel(2, 1)
    slope = np.abs(down) + np.abs(right)
    around = np.pad(slope, ((0, 0), (1, 1), (1, 1)))
    height, width = layers.shape[1:]

    def beyond(rows: int, cols: int) -> NDArray[np.bool_]:
        """Whether the gradient exceeds that of a neighbour."""
        neighbour = around[:, 1 + rows :, 1 + cols :][:, :height, :width]
        # Of two equal maxima side by side, the right or lower one is dropped.
        return slope >= neighbour if (rows, cols) in ((0, 1), (1, 0)) else slope > neighbour

    ridge = np.select(
        [
            np.abs(down) < np.tan(np.pi / 8) * np.abs(right),
            np.abs(right) < np.tan(np.pi / 8) * np.abs(down),
            (down < 0) == (right < 0),
        ],
        [beyond(0, -1) & beyond(0, 1), beyond(-1, 0) & beyond(1, 0), beyond(-1, -1) & beyond(1, 1)],
        beyond(-1, 1) & beyond(1, -1),
    )
    within_layer = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])
    chains, count = ndimage.label(ridge & (slope > low), within_layer)
    strong = np.zeros(count + 1, dtype=np.bool_)
    strong[chains[ridge & (slope > high)]] = True
    return strong[chains]


def equalise(layer: Bytes) -> Bytes:
    """Spreads the histogram of one layer over 0..255; a layer of one grey stays as it is."""
    greys, which, counts = np.unique(layer, return_inverse=True, return_counts=True)
    if len(greys) == 1:
        return layer
    rank = counts.cumsum() - counts[0]
    spread: Bytes = np.rint(255 * rank / rank[-1]).astype(np.uint8)
    return spread[which.reshape(layer.shape)]
