"""Each corruption against a straightforward version that handles one image, or one pixel."""

import numpy as np
import pytest
from scipy import ndimage

from harness.datasets import noise_and_blur


def grey(level, count=40):
    return np.full((count, 32, 32, 3), level, np.uint8)


def test_gaussian_noise(images, check):
    def reference(x, column, rng):
        return x + rng.normal(0, [0.04, 0.06, 0.08, 0.09, 0.1][column - 1], (32, 32, 3))

    check(noise_and_blur.gaussian_noise, images, reference)


def test_shot_noise(images, check):
    def reference(x, column, rng):
        rate = [500, 250, 100, 75, 50][column - 1]
        return rng.poisson(x * rate) / rate

    check(noise_and_blur.shot_noise, images, reference)


def test_impulse_noise(images, generators):
    for column, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        noisy = noise_and_blur.impulse_noise(images, column, generators(len(images)))
        for image, out, rng in zip(images, noisy, generators(len(images)), strict=True):
            expected = image.copy()
            for at, lot in np.ndenumerate(rng.random((32, 32, 3))):
                if lot < share:
                    expected[at] = 0 if lot < share / 2 else 255
            np.testing.assert_array_equal(out, expected)


def test_speckle_noise(images, check):
    def reference(x, column, rng):
        return x + x * rng.normal(0, [0.06, 0.1, 0.12, 0.16, 0.2][column - 1], (32, 32, 3))

    check(noise_and_blur.speckle_noise, images, reference)


@pytest.mark.parametrize("column", range(1, 6))
def test_noises_have_the_strength_of_the_published_columns(column, generators):
    level = 128 / 255
    sigma = (0.04, 0.06, 0.08, 0.09, 0.1)[column - 1]
    rate = (500, 250, 100, 75, 50)[column - 1]
    factor = (0.06, 0.1, 0.12, 0.16, 0.2)[column - 1]
    for noise, std in (
        (noise_and_blur.gaussian_noise, sigma),
        (noise_and_blur.shot_noise, (level / rate) ** 0.5),
        (noise_and_blur.speckle_noise, factor * level),
    ):
        noisy = (noise(grey(128), column, generators(40)) + 0.5) / 255  # truncation took off half
        assert noisy.mean() == pytest.approx(level, abs=0.003)
        assert noisy.std() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("column", range(1, 6))
def test_impulses_are_salt_and_pepper_in_equal_shares(column, generators):
    noisy = noise_and_blur.impulse_noise(grey(77), column, generators(40))
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[column - 1]
    error = 4 * (share / 2 / noisy.size) ** 0.5
    assert set(np.unique(noisy)) == {0, 77, 255}
    assert abs(np.mean(noisy == 0) - share / 2) < error
    assert abs(np.mean(noisy == 255) - share / 2) < error
    struck = noisy != 77
    # Channels are struck on their own.
    assert struck.any(-1).mean() == pytest.approx(1 - (1 - share) ** 3, rel=0.15)


def blurred(x, sigma):
    """A Gaussian over 4 standard deviations, tap by tap, with the border repeated."""
    reach = int(4 * sigma + 0.5)
    taps = np.arange(-reach, reach + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2)) / np.exp(-(taps**2) / (2 * sigma**2)).sum()
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), "edge")
    out = np.zeros_like(x)
    for i, down in enumerate(weights):
        for j, right in enumerate(weights):
            out += down * right * padded[i : i + 32, j : j + 32]
    return out


def test_gaussian_blur(images, check):
    def reference(x, column, rng):
        return blurred(x, [0.4, 0.6, 0.7, 0.8, 1][column - 1])

    check(noise_and_blur.gaussian_blur, images, reference)


def test_defocus_blur(images, check):
    def reference(x, column, rng):
        radius, soften = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][column - 1]
        disk = {(r, c) for r in range(-8, 9) for c in range(-8, 9) if r * r + c * c <= radius**2}
        taps = np.exp(-np.array([1, 0, 1]) / (2 * soften**2))
        taps = np.float32(taps / taps.sum())
        kernel = np.zeros((17, 17))
        for r, c in disk:
            for i, j in np.ndindex(3, 3):
                kernel[8 + r + i - 1, 8 + c + j - 1] += (
                    np.float32(1 / len(disk)) * taps[i] * taps[j]
                )
        padded = np.pad(x, ((8, 8), (8, 8), (0, 0)), "reflect")
        out = np.zeros_like(x)
        for i, j in np.ndindex(17, 17):
            out += np.float32(kernel[i, j]) * padded[i : i + 32, j : j + 32]
        return out

    check(noise_and_blur.defocus_blur, images, reference)
    # The largest disk is a square of nine pixels.
    point = np.zeros((1, 32, 32, 3), np.uint8)
    point[0, 10, 10] = 252
    nine = noise_and_blur.defocus_blur(point, 5, [])[0, ..., 0]
    assert (nine[9:12, 9:12] == 28).all() and nine.sum() == 9 * 28


def test_glass_blur(images, generators):
    columns = enumerate([(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)], start=1)
    for column, (sigma, passes) in columns:
        glass = noise_and_blur.glass_blur(images, column, generators(len(images)))
        for image, out, rng in zip(images, glass, generators(len(images)), strict=True):
            widths = (sigma, sigma, 0)
            pixels = np.floor(255 * ndimage.gaussian_filter(image / 255, widths, mode="nearest"))
            steps = rng.integers(-1, 1, (passes, 2, 30, 30))
            for i in range(passes):
                for r in range(31, 1, -1):
                    for c in range(31, 1, -1):
                        down, right = steps[i, :, r - 2, c - 2]
                        here, there = pixels[r, c], pixels[r + down, c + right]
                        # As in the reference: both names are views, so that nothing is exchanged.
                        here[:], there[:] = there, here
            expected = 255 * ndimage.gaussian_filter(pixels / 255, widths, mode="nearest")
            np.testing.assert_array_equal(out, np.floor(np.clip(expected, 0, 255)))


def test_glass_takes_each_pixel_from_one_of_four(generators):
    row, col = np.mgrid[:32, :32]
    positions = np.stack([row, col, 0 * row], -1).astype(np.uint8)[None].repeat(40, 0)
    glass = noise_and_blur.glass_blur(positions, 1, generators(40)).astype(int)
    steps = glass - positions
    assert not steps[:, :2].any() and not steps[:, :, :2].any()
    codes = 2 * steps[:, 2:, 2:, 0] + steps[:, 2:, 2:, 1]
    shares = np.bincount(-codes.ravel(), minlength=4) / codes.size
    np.testing.assert_allclose(shares, 0.25, atol=0.01)


def test_motion_blur(images, generators):
    images = images[[0, 4, 6]]  # the reference loops over pixels
    for column, (radius, sigma) in enumerate([(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)], 1):
        smeared = noise_and_blur.motion_blur(images, column, generators(len(images)))
        for image, out, rng in zip(images, smeared, generators(len(images)), strict=True):
            angle = np.deg2rad(rng.uniform(-45, 45))
            weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
            expected = np.zeros((32, 32, 3))
            for i, weight in enumerate(weights):
                down, right = round(i * np.sin(angle)), round(i * np.cos(angle))
                for r, c in np.ndindex(32, 32):
                    row, col = min(max(r + down, 0), 31), min(max(c + right, 0), 31)
                    expected[r, c] += weight / sum(weights) * image[row, col]
            np.testing.assert_array_equal(out, np.floor(np.rint(257 * expected) / 257))


def test_zoom_blur(images, check):
    def reference(x, column, rng):
        factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][column - 1], 0.01)
        assert len(factors) == [7, 12, 16, 21, 26][column - 1]
        total = x.copy()
        for factor in factors:
            side = int(np.ceil(32 / factor))
            top = (32 - side) // 2
            centre = x[top : top + side, top : top + side]
            zoomed = ndimage.zoom(centre, (factor, factor, 1), order=1)
            trim = (len(zoomed) - 32) // 2
            total += zoomed[trim : trim + 32, trim : trim + 32]
        return total / (len(factors) + 1)

    check(noise_and_blur.zoom_blur, images, reference)


def test_the_tenth_attribute_is_the_original(images, generators):
    corruptions = noise_and_blur.type_one()
    assert [corruption.__name__ for corruption in corruptions] == [
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "gaussian_blur",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "original",
    ]
    for column in range(1, 6):
        out = corruptions[9](images, column, generators(len(images)))
        np.testing.assert_array_equal(out, images)
