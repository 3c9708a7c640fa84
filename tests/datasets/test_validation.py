import numpy as np
import pytest

from harness.datasets.recipe import SplitArrays
from harness.datasets.validation import balanced, proportional, validation_splits


def cells(**counts):
    """Labels and attributes with c01=3 images of label 0 and attribute 1, and so on, shuffled."""
    labels = np.repeat([int(name[1]) for name in counts], list(counts.values()))
    attributes = np.repeat([int(name[2]) for name in counts], list(counts.values()))
    order = np.random.default_rng(5).permutation(len(labels))
    return labels[order], attributes[order]


def count(rows, labels, attributes):
    table = np.zeros((2, 2), int)
    np.add.at(table, (labels[rows], attributes[rows]), 1)
    return table.tolist()


def rng(seed=0):
    return np.random.default_rng(seed)


def test_balanced_keeps_as_many_of_each_cell_as_the_smallest_has():
    official = cells(c00=9, c01=7, c10=4, c11=30)
    rows = balanced(*official, rng())
    assert count(rows, *official) == [[4, 4], [4, 4]]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_cells_without_images_stay_empty():
    official = cells(c00=9, c01=7, c11=3)
    assert count(balanced(*official, rng()), *official) == [[3, 3], [0, 3]]


def test_one_attribute_per_label_cannot_be_balanced():
    with pytest.raises(ValueError, match="^the 12 validation images have one bias attribute per"):
        balanced(*cells(c00=5, c11=7), rng())


def test_proportional_reproduces_waterbirds_by_hand():
    """The largest n with floor(n share) <= count: 468 * 4795 / 3498 = 641.5 and 134 * 4795 / 1057
    = 607.9, so n = 607; its shares are 442.8, 23.3, 7.1 and 133.8.
    """
    official = cells(c00=467, c01=466, c10=133, c11=133)
    train = cells(c00=3498, c01=184, c10=56, c11=1057)
    rows = proportional(*official, *train, rng())
    assert count(rows, *official) == [[442, 23], [7, 133]]


def test_no_larger_subset_is_proportional():
    """Against a search over all sizes."""
    for seed in range(200):
        drawn = rng(seed)
        there, wanted = drawn.integers(0, 12, 4), drawn.integers(1, 40, 4)
        names = ("c00", "c01", "c10", "c11")
        fitting = [
            takes
            for size in range(500)
            if ((takes := size * wanted // wanted.sum()) <= there).all()
        ]
        official = cells(**dict(zip(names, there, strict=True)))
        train = cells(**dict(zip(names, wanted, strict=True)))
        if fitting[-1].any():
            rows = proportional(*official, *train, rng())
            assert count(rows, *official) == fitting[-1].reshape(2, 2).tolist()
        else:
            with pytest.raises(ValueError, match="can be kept"):
                proportional(*official, *train, rng())


def test_cells_that_training_lacks_are_left_out():
    official = cells(c00=20, c01=20, c10=20, c11=20)
    rows = proportional(*official, *cells(c00=30, c11=10), rng())
    assert count(rows, *official)[0][1] == count(rows, *official)[1][0] == 0
    assert count(rows, *official) == [[20, 0], [0, 6]]


def test_a_missing_cell_that_training_has_often_is_an_error():
    with pytest.raises(ValueError) as error:
        proportional(*cells(c00=3, c01=3), *cells(c00=1, c01=1, c10=2, c11=2), rng())
    assert str(error.value) == (
        "none of the 6 validation images can be kept: they lack (label, attribute) "
        "[(1, 0), (1, 1)], common in training"
    )


def test_every_image_of_a_cell_is_drawn_alike():
    official = cells(c00=2, c01=8, c10=2, c11=2)
    drawn = np.zeros(14)
    generator = rng()
    for _ in range(2000):
        drawn[balanced(*official, generator)] += 1
    large = (official[0] == 0) & (official[1] == 1)
    assert (drawn[~large] == 2000).all()
    assert np.abs(drawn[large] - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_both_splits_follow_the_generator():
    def split(labels, attributes):
        images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
        return SplitArrays(images, labels, attributes, np.arange(len(labels)))

    official = split(*cells(c00=40, c01=40, c10=40, c11=40))
    train = split(*cells(c00=90, c01=10, c10=10, c11=90))
    made = validation_splits(official, train, rng(3))
    again = validation_splits(official, train, rng(3))
    other = validation_splits(official, train, rng(4))
    assert list(made) == ["valid_biased", "valid_unbiased"]
    np.testing.assert_array_equal(made["valid_biased"].ids, again["valid_biased"].ids)
    assert set(made["valid_biased"].ids) != set(other["valid_biased"].ids)
    biased = made["valid_biased"]
    assert count(slice(None), biased.labels, biased.attributes) == [[40, 4], [4, 40]]
    for made_split in made.values():  # rows stay together
        np.testing.assert_array_equal(made_split.images[:, 0, 0, 0], made_split.ids)
        np.testing.assert_array_equal(official.labels[made_split.ids], made_split.labels)
        np.testing.assert_array_equal(official.attributes[made_split.ids], made_split.attributes)
