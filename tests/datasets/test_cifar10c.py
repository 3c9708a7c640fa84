import hashlib

import numpy as np
import pytest

from harness.datasets import cifar10c, sources
from harness.datasets.cifar10c import TYPE_ONE, TYPE_ZERO
from harness.datasets.corruptions import contrast, frost_over, type_zero
from harness.datasets.noise_and_blur import type_one
from harness.datasets.recipe import silent

SPLITS = ("train", "valid_biased", "valid_unbiased", "test")


@pytest.fixture
def small(monkeypatch, images, photos):
    """Builds from 600 + 100 made-up images in place of CIFAR-10."""
    rng = np.random.default_rng(2)
    pool = images.transpose(0, 3, 1, 2)
    raw = sources.Labelled(
        pool[rng.integers(len(pool), size=600)],
        rng.integers(10, size=600),
        pool[rng.integers(len(pool), size=100)],
        rng.integers(10, size=100),
    )
    monkeypatch.setattr(sources, "cifar10", lambda root, progress: raw)
    monkeypatch.setattr(sources, "frost_photos", lambda root, progress: photos)
    monkeypatch.setattr(cifar10c, "TRAIN", 500)

    def build(ratio, argument="", family=TYPE_ZERO, progress=silent):
        return family.recipe(argument).build(None, ratio, 0, progress)

    return build


def test_every_image_has_its_label_attribute_and_source(small):
    calls = []
    splits = small(20, progress=lambda description, done, total: calls.append((done, total)))
    assert {name: len(splits[name].ids) for name in splits} == dict(
        zip(SPLITS, (500, 100, 100, 100), strict=True)
    )
    train, valid = splits["train"], splits["valid_biased"]
    assert sorted([*train.ids, *valid.ids]) == list(range(600))
    np.testing.assert_array_equal(valid.ids, splits["valid_unbiased"].ids)
    for split in splits.values():
        assert split.images.shape[1:] == (3, 32, 32) and split.images.dtype == np.uint8
        assert split.labels.dtype == split.attributes.dtype == split.ids.dtype == np.int64
    assert 0.12 < np.mean(train.labels != train.attributes) < 0.28
    assert 0.8 < np.mean(splits["test"].labels != splits["test"].attributes) < 1
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (800, 800)


def test_a_larger_ratio_changes_only_the_images_that_newly_conflict(small):
    few, many = small(5)["train"], small(30)["train"]
    conflicting = few.labels != few.attributes
    same = few.attributes == many.attributes
    assert same[conflicting].all() and not same.all()
    np.testing.assert_array_equal(few.ids, many.ids)
    np.testing.assert_array_equal(few.images[same], many.images[same])
    np.testing.assert_array_equal(small(5)["test"].images, small(30)["test"].images)


@pytest.mark.parametrize("column", range(1, 6))
@pytest.mark.parametrize("type_number", [0, 1])
def test_any_subset_comes_out_bit_identical(type_number, column, images, photos):
    corruptions = (type_zero(photos), type_one())[type_number]
    pool = images.transpose(0, 3, 1, 2)
    ids = np.repeat(np.arange(len(pool)), 10)
    attributes = np.tile(np.arange(10), len(pool))
    whole = cifar10c.corrupt(pool, ids, attributes, corruptions, column, (0, 5))
    chosen = np.random.default_rng(0).permutation(len(ids))[:30]
    part = cifar10c.corrupt(pool, ids[chosen], attributes[chosen], corruptions, column, (0, 5))
    np.testing.assert_array_equal(part, whole[chosen])
    other = cifar10c.corrupt(pool, ids, attributes, corruptions, column, (1, 5))
    assert (other[attributes == 0] != whole[attributes == 0]).any()


def test_columns_and_types_change_the_images_alone(small):
    plain, mild, noisy = small(30), small(30, "2"), small(30, family=TYPE_ONE)
    for name in SPLITS:
        for other in (mild, noisy):
            np.testing.assert_array_equal(plain[name].attributes, other[name].attributes)
            np.testing.assert_array_equal(plain[name].ids, other[name].ids)
            changed = (plain[name].images != other[name].images).any((1, 2, 3))
            assert changed.mean() > 0.5  # flat images look the same in some columns


def test_columns_share_their_draws_and_types_do_not(images, monkeypatch, photos):
    drawn = []

    def draw(images, column, rngs):
        drawn.append([rng.random() for rng in rngs])
        return images

    monkeypatch.setattr(cifar10c, "TRAIN", 5)
    monkeypatch.setattr(cifar10c, "type_zero", lambda photos: (draw,) * 10)
    monkeypatch.setattr(cifar10c, "type_one", lambda: (draw,) * 10)
    pool = images.transpose(0, 3, 1, 2)
    raw = sources.Labelled(pool, np.zeros(8, int), pool, np.zeros(8, int))
    monkeypatch.setattr(sources, "cifar10", lambda root, progress: raw)
    monkeypatch.setattr(sources, "frost_photos", lambda root, progress: photos)

    def draws(family, argument):
        drawn.clear()
        family.recipe(argument).build(None, 50, 0, silent)
        return {value for batch in drawn for value in batch}

    strong = draws(TYPE_ZERO, "")
    assert strong == draws(TYPE_ZERO, "1")
    assert not strong & draws(TYPE_ONE, "")


PUBLISHED = {0.5: (44_832, 228), 1: (44_527, 442), 2: (44_145, 887), 5: (42_820, 2_242)}


def test_exact_has_the_published_numbers_of_images(monkeypatch, photos):
    labels = np.random.default_rng(3).integers(10, size=60_000)
    nothing = np.zeros((60_000, 1), np.uint8)
    raw = sources.Labelled(nothing[:50_000], labels[:50_000], nothing[50_000:], labels[50_000:])
    monkeypatch.setattr(sources, "cifar10", lambda root, progress: raw)
    monkeypatch.setattr(sources, "frost_photos", lambda root, progress: photos)
    monkeypatch.setattr(cifar10c, "corrupt", lambda images, ids, *_: images[ids])
    recipe = TYPE_ZERO.recipe("exact")
    splits = {ratio: recipe.build(None, ratio, 0, silent) for ratio in PUBLISHED}
    conflicts = {}
    for ratio, (aligned, conflicting) in PUBLISHED.items():
        train, valid = splits[ratio]["train"], splits[ratio]["valid_biased"]
        conflict = train.labels != train.attributes
        assert (np.sum(~conflict), np.sum(conflict)) == (aligned, conflicting)
        np.testing.assert_array_equal(train.labels, labels[train.ids])
        assert len(valid.ids) == 4_938 and not set(valid.ids) & set(train.ids)
        np.testing.assert_array_equal(valid.ids, splits[5]["valid_unbiased"].ids)
        conflicts[ratio] = set(zip(train.ids[conflict], train.attributes[conflict], strict=True))
    assert conflicts[0.5] < conflicts[1] < conflicts[2] < conflicts[5]
    # The split begins as that of the plain data set.
    plain = TYPE_ZERO.recipe("").build(None, 1, 0, silent)["train"].ids
    np.testing.assert_array_equal(plain[:44_969], splits[1]["train"].ids)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("", "cifar10c"),
        ("5", "cifar10c"),
        ("3", "cifar10c:3"),
        ("exact", "cifar10c:exact"),
        ("5,exact", "cifar10c:exact"),
        ("3,exact", "cifar10c:3,exact"),
    ],
)
def test_names_are_canonical(typed, name):
    recipe = TYPE_ZERO.recipe(typed)
    assert recipe.name == name
    assert recipe.like == ("" if name == "cifar10c" else "cifar10c")
    assert recipe.open_ratio == ("exact" not in typed)
    assert TYPE_ZERO.recipe(name.partition(":")[2]).name == name


def test_type_one_needs_no_frost():
    assert TYPE_ONE.recipe("5").name == "cifar10c_type1"
    assert TYPE_ONE.recipe("2").name == "cifar10c_type1:2"
    assert TYPE_ONE.recipe("").raw_files == sources.CIFAR10.checksums()
    assert TYPE_ONE.recipe("").like == "cifar10c"


@pytest.mark.parametrize("typed", ["0", "6", "33", "exakt", "3,", ",exact", "exact,3", "3exact"])
def test_a_wrong_argument_says_what_may_be_written(typed):
    with pytest.raises(ValueError) as error:
        TYPE_ZERO.recipe(typed)
    assert str(error.value) == (
        "cifar10c takes a parameter column 1 to 5 (5 if left out), 'exact' for the published "
        f"numbers of images, or both as in cifar10c:3,exact, but got {typed!r}."
    )


def test_nobody_published_numbers_of_type_one():
    for typed in ("exact", "3,exact"):
        with pytest.raises(ValueError) as error:
            TYPE_ONE.recipe(typed)
        assert str(error.value) == (
            f"cifar10c_type1 takes a parameter column 1 to 5 (5 if left out), but got {typed!r}."
        )


def test_exact_refuses_a_ratio_that_was_not_published():
    with pytest.raises(ValueError, match="^cifar10c:exact .*0.5, 1, 2, 5 percent, but got 3"):
        TYPE_ZERO.recipe("exact").check_ratio(3)
    TYPE_ZERO.recipe("").check_ratio(3)


def test_a_class_is_aligned_with_the_corruption_of_its_number():
    np.testing.assert_array_equal(TYPE_ZERO.recipe("").aligned_table(), np.eye(10, dtype=bool))


@pytest.mark.realdata
def test_frost_reproduces_the_published_sample(cifar10, frost_photos):
    # dataset/cifar10c/sample.png of the DCWP authors.
    assert cifar10.train_labels[49641] == 0
    image = cifar10.train_images[49641].transpose(1, 2, 0)
    frosted = frost_over(image, frost_photos[3], row=21, col=32, column=5)
    for r in range(32):
        for c in range(32):
            ice = frost_photos[3][5 * (21 + r) + 2, 5 * (32 + c) + 2].tolist()
            blend = zip(image[r, c].tolist(), ice, strict=True)
            assert frosted[r, c].tolist() == [min(int(0.75 * x + 0.45 * f), 255) for x, f in blend]
    digest = hashlib.sha256(frosted.tobytes()).hexdigest()
    assert digest == "43f368e7a6a16f2ec79af270ba8075529056ce32fadedaacd1e574b22aca2dd8"


@pytest.mark.realdata
def test_the_strongest_contrast_leaves_little(cifar10):
    tiles = contrast(cifar10.train_images[:500].transpose(0, 2, 3, 1), 5, []).astype(int)
    assert np.ptp(tiles, axis=(1, 2)).max() <= 39  # ceil(.15 * 255)


@pytest.mark.realdata
def test_frost_photos_have_the_sizes_of_the_reference(frost_photos):
    sizes = [photo[2::5, 2::5].shape[:2] for photo in frost_photos]
    assert sizes == [(120, 180), (63, 112), (63, 112), (70, 105), (99, 132)]
