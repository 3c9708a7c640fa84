import hashlib

import numpy as np
import pytest
from scipy import ndimage

from harness.datasets.imaging import edges, equalise, motion_blur, zoom_in


def test_motion_blur_smears_to_one_side():
    point = np.zeros((4, 41, 41), np.uint8)
    point[:, 20, 20] = 255
    blurred = motion_blur(point, 3, 2, np.radians([0, 90, 180, -45])).astype(int)
    weights = np.exp(-(np.arange(7) ** 2) / 8)
    smear = np.floor(np.rint(65535 * weights / weights.sum()) / 257)
    np.testing.assert_array_equal(blurred[0, 20, 20:13:-1], smear)
    np.testing.assert_array_equal(blurred[1, 20:13:-1, 20], smear)
    np.testing.assert_array_equal(blurred[2, 20, 20:27], smear)
    for n, value in enumerate(smear):
        assert blurred[3, 20 + round(n * 0.5**0.5), 20 - round(n * 0.5**0.5)] >= value
    assert (blurred[:3].sum((1, 2)) == smear.sum()).all()


def test_motion_blur_repeats_the_border_and_keeps_colours_apart():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[..., 0], image[:, :, 7, 1] = 200, 100
    blurred = motion_blur(image, 3, 2, np.zeros(1))
    assert (blurred[..., 0] == 200).all() and (blurred[..., 2] == 0).all()
    assert (blurred[0, :, 7, 1] == 100).all() and (
        np.diff(blurred[0, 0, 1:, 1].astype(int)) > 0
    ).all()


@pytest.mark.parametrize("factor", [1, 1.01, 1.06, 1.1, 1.25, 1.2500000000000002, 1.75, 2.25])
def test_zoom_in_is_linear_interpolation_of_the_centre(factor):
    layers = np.random.default_rng(0).random((3, 32, 32))
    side = int(np.ceil(32 / factor))
    top = (32 - side) // 2
    for layer, zoomed in zip(layers, zoom_in(layers, factor), strict=True):
        expected = ndimage.zoom(layer[top : top + side, top : top + side], factor, order=1)
        trim = (len(expected) - 32) // 2
        np.testing.assert_allclose(zoomed, expected[trim : trim + 32, trim : trim + 32], atol=1e-12)


def test_edges_are_those_of_opencv():
    row, col = np.mgrid[:32, :32]
    layers = np.stack([(row * row + 3 * col * k) // (5 + k) % 97 * 2 for k in range(8)])
    found = edges(layers.astype(np.uint8), 50, 150)
    assert found.sum((1, 2)).tolist() == [64, 65, 76, 32, 32, 31, 26, 22]
    # cv2.Canny(layer, 50, 150) of OpenCV 5.0.0.
    digest = hashlib.sha256(np.packbits(found)).hexdigest()
    assert digest == "69819c2989da741ca31b52fdf87b907034e283e2310232a8226231c90c9c985d"


def test_a_weak_edge_counts_where_it_touches_a_strong_one():
    layer = np.zeros((2, 32, 32), np.uint8)
    layer[:, :, 16:] = 20  # slope 80: between the thresholds
    assert not edges(layer, 50, 150).any()
    layer[0, :4, 16:] = 60
    found = edges(layer, 50, 150)
    assert found[0, :, 15].sum() >= 30 and not found[1].any()


def test_equalise_spreads_greys_by_their_share():
    layer = np.repeat([3, 4, 9, 200], [4, 1, 2, 1]).reshape(2, 4).astype(np.uint8)
    # Shares of the 4 pixels above the lowest grey: 0, 1/4, 3/4, 1.
    assert equalise(layer).tolist() == [[0, 0, 0, 0], [64, 191, 191, 255]]
    np.testing.assert_array_equal(equalise(layer[:1]), layer[:1])
