"""The motion blur against ImageMagick, the tool that made the published corruptions."""

import io

import numpy as np
import pytest
from PIL import Image

from harness.datasets import imaging, noise_and_blur

pytest.importorskip("wand.image", exc_type=ImportError, reason="needs Wand and libmagickwand")
from wand.image import Image as WandImage  # noqa: E402
from wand.version import MAGICK_VERSION_INFO  # noqa: E402

pytestmark = pytest.mark.skipif(MAGICK_VERSION_INFO[0] != 6, reason="ImageMagick 6 was the tool")
COUNT = 200


def magick(image, radius, sigma, degrees):
    """Passes an image through ImageMagick as the reference does: as PNG, in and out."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    with WandImage(blob=file.getvalue()) as blurred:
        blurred.motion_blur(radius=radius, sigma=sigma, angle=degrees)
        out = Image.open(io.BytesIO(blurred.make_blob()))
    # ImageMagick writes a picture without colour as a grey one.
    return np.asarray(out.convert("RGB" if image.ndim == 3 else "L"))


def generators():
    return [np.random.default_rng((4, n)) for n in range(COUNT)]


@pytest.mark.realdata
@pytest.mark.parametrize("column", range(1, 6))
def test_motion_blur_is_that_of_imagemagick(column, cifar10):
    images = np.ascontiguousarray(cifar10.train_images[:COUNT].transpose(0, 2, 3, 1))
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][column - 1]
    expected = [
        magick(image, radius, sigma, rng.uniform(-45, 45))
        for image, rng in zip(images, generators(), strict=True)
    ]
    np.testing.assert_array_equal(
        noise_and_blur.motion_blur(images, column, generators()), expected
    )


def test_flakes_of_the_strongest_snow_are_smeared_as_by_imagemagick():
    flakes = imaging.zoom_in(imaging.normal(generators(), 0.3, 0.3, 32, 32), 1.25)
    flakes = imaging.to_bytes(np.where(flakes < 0.65, 0, flakes))
    angles = np.random.default_rng(5).uniform(-135, -45, COUNT)
    expected = [magick(layer, 14, 12, angle) for layer, angle in zip(flakes, angles, strict=True)]
    np.testing.assert_array_equal(imaging.motion_blur(flakes, 14, 12, np.radians(angles)), expected)


def test_steps_are_rounded_as_by_imagemagick():
    layers = np.random.default_rng(6).integers(0, 256, (12, 32, 32), dtype=np.uint8)
    angles = np.arange(-180, 180, 30)  # sines and cosines of 1/2 make steps end in halves
    expected = [magick(layer, 6, 2, angle) for layer, angle in zip(layers, angles, strict=True)]
    np.testing.assert_array_equal(imaging.motion_blur(layers, 6, 2, np.radians(angles)), expected)
