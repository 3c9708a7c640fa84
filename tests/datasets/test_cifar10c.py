import hashlib

import numpy as np
import pytest

from harness.datasets import cifar10c, sources
from harness.datasets.corruptions import contrast, frost_over, type_zero
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
    return lambda ratio, progress=silent: cifar10c.build(None, ratio, 0, progress)


def test_every_image_has_its_label_attribute_and_source(small):
    calls = []
    splits = small(20, lambda description, done, total: calls.append((done, total)))
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


def test_any_subset_comes_out_bit_identical(images, photos):
    pool = images.transpose(0, 3, 1, 2)
    ids = np.repeat(np.arange(len(pool)), 10)
    attributes = np.tile(np.arange(10), len(pool))
    whole = cifar10c.corrupt(pool, ids, attributes, type_zero(photos), (0, 5))
    chosen = np.random.default_rng(0).permutation(len(ids))[:30]
    part = cifar10c.corrupt(pool, ids[chosen], attributes[chosen], type_zero(photos), (0, 5))
    np.testing.assert_array_equal(part, whole[chosen])
    other = cifar10c.corrupt(pool, ids, attributes, type_zero(photos), (1, 5))
    assert (other[attributes == 0] != whole[attributes == 0]).any()


def test_a_class_is_aligned_with_the_corruption_of_its_number():
    np.testing.assert_array_equal(cifar10c.RECIPE.aligned_table(), np.eye(10, dtype=bool))


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
