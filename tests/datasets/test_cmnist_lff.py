import numpy as np
import pytest

from harness.datasets import cmnist_lff, default_root, get
from harness.datasets.recipe import silent

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def build():
    made = {}

    def build(name, ratio):
        if (name, ratio) not in made:
            made[name, ratio] = get(name).build(default_root(), ratio, 0, silent)
        return made[name, ratio]

    return build


@pytest.mark.parametrize(("ratio", "conflicts"), [(5, 3000), (2, 1199), (1, 598), (0.5, 300)])
def test_the_authors_number_of_images_conflicts(mnist, ratio, conflicts):
    attributes = cmnist_lff.assign_in_order(mnist.train_labels, ratio)
    assert np.sum(attributes != mnist.train_labels) == conflicts


def test_colours_are_assigned_in_blocks_of_official_order():
    labels = np.repeat([0, 3], 9)
    attributes = cmnist_lff.assign_in_order(labels, 90)  # a tenth for each colour: 0.9 images
    # Milestones 0.9, 1.8, 2.7, … round to 1, 2, 3, 4, 4, 5, 6, 7, 8, 9: colour 4 gets none.
    assert attributes.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9] * 2


def test_conflicts_are_nested(mnist):
    labels = mnist.train_labels
    few, many = (cmnist_lff.assign_in_order(labels, ratio) for ratio in (0.5, 5))
    assert ((many != labels) >= (few != labels)).all()


def test_shading_multiplies_and_truncates():
    digits = np.array([[[0, 1, 128, 255]]], dtype=np.uint8)
    noise = np.array([[1.0, -2.0, 30.0]])
    shaded = cmnist_lff.shade(digits, np.array([3]), noise, severity=1)[0, :, 0]
    red, green, blue = 0.783252 + 0.05, 0.831556 - 0.1, 1.0  # the last is clipped
    for channel, level in zip(shaded, (red, green, blue), strict=True):
        assert channel.tolist() == [0, int(level), int(128 * level), int(255 * level)]


@pytest.mark.parametrize("severity", [1, 4])
def test_jitter_has_the_spread_of_its_severity(mnist, build, severity):
    train = build(f"cmnist_lff:{severity}", 1.0)["train"]
    # Where a digit is fully white the colour can be read off, to one grey level.
    brightest = train.images.max((2, 3)) / 255  # (N, 3)
    white = mnist.train_images[train.ids].max((1, 2)) == 255
    blue_of_sky = (train.attributes == 4) & white
    spread = brightest[blue_of_sky][:, 1].std()  # 0.778 is far from being clipped
    assert spread == pytest.approx(cmnist_lff.JITTER[severity], rel=0.1)


def test_held_out_images_are_coloured_as_the_authors_would(mnist, build):
    splits = build("cmnist_lff", 1.0)
    assigned = cmnist_lff.assign_in_order(mnist.train_labels, 1.0)
    for name in ("train", "valid_biased"):
        np.testing.assert_array_equal(splits[name].attributes, assigned[splits[name].ids])
    assert sorted([*splits["train"].ids, *splits["valid_biased"].ids]) == list(range(60_000))
    test = splits["test"]
    assert abs(np.mean(test.labels == test.attributes) - 0.1) < 0.015


def test_the_colour_of_an_image_does_not_depend_on_the_ratio(build):
    few, many = build("cmnist_lff", 1.0)["train"], build("cmnist_lff", 5.0)["train"]
    same = few.attributes == many.attributes
    assert 0 < np.mean(~same) < 0.1
    np.testing.assert_array_equal(few.images[same], many.images[same])


def test_names_are_canonical_and_wrong_severities_one_line():
    assert get("cmnist_lff:4").name == "cmnist_lff"
    assert get("cmnist_lff:2").name == "cmnist_lff:2"
    with pytest.raises(ValueError, match=r"^cmnist_lff:6: the severity is 1, 2, 3, 4 or 5$"):
        get("cmnist_lff:6")
