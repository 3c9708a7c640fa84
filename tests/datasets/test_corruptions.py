"""Each corruption against a straightforward version that handles one image, or one pixel."""

import colorsys
import io

import numpy as np
from PIL import Image
from scipy import ndimage

from harness.datasets import corruptions
from harness.datasets.imaging import plasma


def per_pixel_hsv(change):
    def reference(x, column, rng):
        return np.array([[change(column, *colorsys.rgb_to_hsv(*pixel)) for pixel in r] for r in x])

    return reference


def test_brightness(images, check):
    def brighter(column, h, s, v):
        return colorsys.hsv_to_rgb(h, s, min(v + [0.05, 0.1, 0.15, 0.2, 0.3][column - 1], 1))

    check(corruptions.brightness, images, per_pixel_hsv(brighter))


def test_saturate(images, check):
    def richer(column, h, s, v):
        factor, add = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][column - 1]
        return colorsys.hsv_to_rgb(h, min(s * factor + add, 1), v)

    check(corruptions.saturate, images, per_pixel_hsv(richer))


def test_contrast(images, check, generators):
    def reference(x, column, rng):
        factor = [0.75, 0.5, 0.4, 0.3, 0.15][column - 1]
        out = np.empty_like(x)
        for channel in range(3):
            mean = sum(x[..., channel].ravel()) / 1024
            out[..., channel] = factor * x[..., channel] + (1 - factor) * mean
        return out

    check(corruptions.contrast, images, reference)
    strongest = corruptions.contrast(images, 5, generators(len(images))).astype(int)
    assert np.ptp(strongest, axis=(1, 2)).max() <= 39  # ceil(.15 * 255)


def diamond_square(rng, decay):
    """The plasma of one image, point by point."""
    cloud = np.zeros((32, 32))
    amplitude, step = 100, 32
    while step >= 2:
        half = step // 2
        noise = rng.uniform(-1, 1, (3, 32 // step, 32 // step)) * amplitude**2

        def mean(*points, cloud=cloud):
            return sum(cloud[row % 32, col % 32] for row, col in points) / 4

        points = [(r, c) for r in range(0, 32, step) for c in range(0, 32, step)]
        for r, c in points:
            corners = (r, c), (r + step, c), (r, c + step), (r + step, c + step)
            cloud[r + half, c + half] = mean(*corners) + noise[0, r // step, c // step]
        for r, c in points:
            around = (r, c), (r + step, c), (r + half, c - half), (r + half, c + half)
            cloud[r + half, c] = mean(*around) + noise[1, r // step, c // step]
            around = (r, c), (r, c + step), (r - half, c + half), (r + half, c + half)
            cloud[r, c + half] = mean(*around) + noise[2, r // step, c // step]
        amplitude, step = amplitude / decay, half
    return (cloud - cloud.min()) / (cloud.max() - cloud.min())


def test_plasma(generators):
    batched = plasma(generators(3), 1.75)
    single = [diamond_square(rng, 1.75) for rng in generators(3)]
    np.testing.assert_allclose(batched, single, atol=1e-12)
    assert batched.min() == 0 and batched.max() == 1


def test_fog(images, check):
    def reference(x, column, rng):
        thickness, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][column - 1]
        fogged = x + thickness * diamond_square(rng, decay)[..., None]
        return fogged * x.max() / (x.max() + thickness)

    check(corruptions.fog, images, reference)


def test_mud(images, check):
    def reference(x, column, rng):
        sigma, threshold = {4: (0.7, 0.69), 5: (0.5, 0.68)}[column]
        layer = ndimage.gaussian_filter(rng.normal(0.65, 0.1, (32, 32)), sigma, mode="nearest")
        mask = np.where(layer > threshold, 1.0, 0.0)
        mask = ndimage.gaussian_filter(mask, 0.6, mode="nearest")
        mask = np.where(mask < 0.8, 0, mask)
        brown = np.array([63, 42, 20]) / 255
        return x * (1 - mask[..., None]) + mask[..., None] * brown

    check(corruptions.spatter, images, reference, columns=(4, 5))


def canny(grey):
    """Edges of one layer, pixel by pixel."""
    size = range(32)

    def at(r, c):
        return int(grey[min(max(r, 0), 31), min(max(c, 0), 31)])

    down, right = np.zeros((34, 34), int), np.zeros((34, 34), int)
    for r in size:
        for c in size:
            for weight, k in ((1, -1), (2, 0), (1, 1)):
                down[r + 1, c + 1] += weight * (at(r + 1, c + k) - at(r - 1, c + k))
                right[r + 1, c + 1] += weight * (at(r + k, c + 1) - at(r + k, c - 1))
    slope = abs(down) + abs(right)

    def is_ridge(r, c):
        here, dy, dx = slope[r, c], down[r, c], right[r, c]
        if abs(dy) < np.tan(np.pi / 8) * abs(dx):
            return slope[r, c - 1] < here >= slope[r, c + 1]
        if abs(dy) > np.tan(3 * np.pi / 8) * abs(dx):
            return slope[r - 1, c] < here >= slope[r + 1, c]
        side = 1 if dy * dx >= 0 else -1
        return slope[r - 1, c - side] < here > slope[r + 1, c + side]

    weak = {
        (r, c) for r in range(1, 33) for c in range(1, 33) if slope[r, c] > 50 and is_ridge(r, c)
    }
    found = [(r, c) for r, c in weak if slope[r, c] > 150]
    edges = set()
    while found:
        r, c = found.pop()
        if (r, c) in weak - edges:
            edges.add((r, c))
            found += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [(r - 1, c - 1) for r, c in edges]


def mirrored(x, kernel):
    """Correlates with a 3x3 kernel; the row beyond the border is the one before it."""
    inside = np.pad(x.astype(float), 1, "reflect")
    return sum(kernel[i][j] * inside[i : i + 32, j : j + 32] for i in range(3) for j in range(3))


def test_water(images, check):
    def reference(x, column, rng):
        loc, scale, sigma, threshold = [
            (0.62, 0.1, 0.7, 0.7),
            (0.65, 0.1, 0.8, 0.7),
            (0.65, 0.3, 1, 0.69),
        ][column - 1]
        layer = ndimage.gaussian_filter(rng.normal(loc, scale, (32, 32)), sigma, mode="nearest")
        grey = np.floor(255 * np.clip(np.where(layer < threshold, 0, layer), 0, 1))
        edges = canny(grey)
        assert edges
        row, col = np.mgrid[:32, :32]
        distance = np.min([np.hypot(row - r, col - c) for r, c in edges], axis=0)
        smooth = np.floor(mirrored(np.minimum(distance, 20), np.ones((3, 3))) / 9).astype(int)
        counts = np.bincount(smooth.ravel(), minlength=256)
        lowest = smooth.min()
        table = [sum(counts[: g + 1]) - counts[lowest] for g in range(256)]
        equal = np.array([np.rint(255 * t / (1024 - counts[lowest])) for t in table])[smooth]
        light = np.clip(mirrored(equal, [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), 0, 255)
        water = grey * np.rint(mirrored(light, np.ones((3, 3))) / 9)
        colour = np.array([175, 238, 238]) / 255
        return x + 0.5 * (water / water.max())[..., None] * colour

    check(corruptions.spatter, images, reference, columns=(1, 2, 3))


def test_a_layer_without_drops_stays_dry(images, generators, monkeypatch):
    monkeypatch.setattr(corruptions, "normal", lambda rngs, *_: np.zeros((len(rngs), 32, 32)))
    for column in range(1, 6):
        dry = corruptions.spatter(images, column, generators(len(images)))
        np.testing.assert_array_equal(dry, images)


def test_elastic(images, check):
    def reference(x, column, rng):
        strength, sigma, jitter = [
            (0, 0, 2.56),
            (1.6, 6.4, 2.24),
            (2.56, 1.92, 1.92),
            (3.2, 1.28, 1.6),
            (3.2, 0.96, 0.96),
        ][column - 1]
        corners = np.array([[26, 26], [26, 6], [6, 6]])  # (x, y)
        moved = corners + rng.uniform(-jitter, jitter, (3, 2))
        forward = np.linalg.solve(np.column_stack([corners, np.ones(3)]), moved).T  # (2, 3)
        row, col = np.mgrid[:32, :32]
        offset = np.stack([col, row]) - forward[:, 2, None, None]
        origin = np.einsum("ij,jrc->irc", np.linalg.inv(forward[:, :2]), offset)
        fields = rng.uniform(-1, 1, (2, 32, 32))
        shift = [
            strength * ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in fields
        ]
        out = np.empty_like(x)
        for n in range(3):
            warped = ndimage.map_coordinates(
                x[..., n], [origin[1], origin[0]], order=1, mode="mirror"
            )
            out[..., n] = ndimage.map_coordinates(
                warped, [row + shift[1], col + shift[0]], order=1, mode="reflect"
            )
        return out

    check(corruptions.elastic, images, reference)


def test_snow(images, check):
    def reference(x, column, rng):
        loc, scale, zoom, threshold, radius, sigma, mix = [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ][column - 1]
        layer = rng.normal(loc, scale, (32, 32))
        side = {1: 32, 1.75: 19, 2.25: 15, 1.25: 26}[zoom]
        start = (32 - side) // 2
        size = round(side * zoom)
        # Linear zoom lays the outermost samples on the outermost pixels.
        at = np.linspace(start, start + side - 1, size)
        rows, cols = np.meshgrid(at, at, indexing="ij")
        layer = ndimage.map_coordinates(layer, [rows, cols], order=1)
        trim = (size - 32) // 2
        layer = layer[trim : trim + 32, trim : trim + 32]
        layer = np.floor(255 * np.clip(np.where(layer < threshold, 0, layer), 0, 1))
        angle = np.deg2rad(rng.uniform(-135, -45))
        weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
        blurred = np.zeros((32, 32))
        for i, weight in enumerate(weights):
            down, right = round(i * np.sin(angle)), round(i * np.cos(angle))
            for r in range(32):
                for c in range(32):
                    row, col = min(max(r + down, 0), 31), min(max(c + right, 0), 31)
                    blurred[r, c] += weight / sum(weights) * layer[row, col]
        flakes = np.floor(np.rint(257 * blurred) / 257)[..., None] / 255
        grey = (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]
        white = mix * x + (1 - mix) * np.maximum(x, 1.5 * grey + 0.5)
        return white + flakes + np.rot90(flakes, 2)

    # One column at a time with few images: the reference loops over pixels.
    check(corruptions.snow, images[[0, 4]], reference)


def test_frost_blends_a_crop_of_a_photo(images, photos, generators):
    corrupted = corruptions.frost(images, 5, generators(len(images)), photos)
    for image, out, rng in zip(images, corrupted, generators(len(images)), strict=True):
        photo = photos[rng.integers(2)]
        height, width = {315: (63, 112), 350: (70, 105)}[len(photo)]
        row, col = rng.integers(height - 32), rng.integers(width - 32)
        for r, c in ((0, 0), (31, 31), (5, 17)):
            ice = photo[5 * (row + r) + 2, 5 * (col + c) + 2]
            expected = [min(int(0.75 * x + 0.45 * y), 255) for x, y in zip(image[r, c], ice)]  # noqa: B905
            assert out[r, c].tolist() == expected


def test_frost_reaches_the_last_row_and_column_of_a_photo():
    photo = np.zeros((5 * 34, 5 * 34, 3), np.uint8)  # 34 x 34 scaled, so offsets are 0 and 1
    image = np.zeros((1, 32, 32, 3), np.uint8)
    photo[5 * 32 + 2, 5 * 32 + 2] = 200
    hits = {
        corruptions.frost(image, 5, [np.random.default_rng(n)], [photo]).any() for n in range(40)
    }
    assert hits == {True, False}


def test_pixelate(images, generators):
    def box_means(x):
        """Area averages over 20 x 20 equal cells."""
        edges = np.arange(21) * 1.6
        cover = np.clip(
            np.minimum(edges[1:, None], np.arange(1, 33))
            - np.maximum(edges[:-1, None], np.arange(32)),
            0,
            None,
        )
        return np.einsum("ar,bc,nrcx->nabx", cover, cover, x) / 1.6**2

    corrupted = corruptions.pixelate(images, 5, generators(len(images))).astype(int)
    assert (np.diff(corrupted, axis=1).any((2, 3)).sum(1) <= 19).all()
    assert (np.diff(corrupted, axis=2).any((1, 3)).sum(1) <= 19).all()
    middle = np.floor((np.arange(20) + 0.5) * 1.6).astype(int)
    cells = corrupted[:, middle][:, :, middle]
    # Pillow's filter takes whole pixels, the exact cell fractions of them.
    smooth = np.abs(cells - box_means(images))[[0, 1, 2, 5, 6, 7]]
    assert smooth.max() < 4


def test_jpeg(images):
    for column, quality in enumerate((80, 65, 58, 50, 40), start=1):
        file = io.BytesIO()
        Image.fromarray(images[3]).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file))
        np.testing.assert_array_equal(corruptions.jpeg(images, column, [])[3], expected)
