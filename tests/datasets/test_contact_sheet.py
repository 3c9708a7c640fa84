import numpy as np
import pytest
import torch

from harness.datasets.contact_sheet import contact_sheet
from harness.training_set import GroupedSplit

ALIGNED = torch.tensor([[True, False], [False, True], [True, False]])
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [250, 0, 250]])


def split_of(cells, side=8):
    """An image for each (label, attribute), of one colour by label and another by attribute."""
    labels, attributes = torch.tensor(cells).T
    images = torch.empty(len(cells), 3, side, side, dtype=torch.uint8)
    images[:] = torch.from_numpy(COLOURS)[labels][:, :, None, None]
    images[..., : side // 2] = torch.from_numpy(COLOURS)[3 + attributes][:, :, None, None]
    return GroupedSplit(images, labels, attributes)


def drawn(sheet, colour):
    """(rows, columns) of the pixels of a colour."""
    return np.nonzero((np.asarray(sheet) == COLOURS[colour]).all(-1))


def test_aligned_samples_are_left_and_conflicting_ones_right_in_the_row_of_their_class():
    cells = [(label, attribute) for label in range(3) for attribute in range(2)] * 4
    sheet = contact_sheet(split_of(cells), ALIGNED, per_side=4)
    rows = [drawn(sheet, label)[0] for label in range(3)]
    assert rows[0].max() < rows[1].min() and rows[1].max() < rows[2].min()
    # Four tiles on either side, the right half of each in the colour of the class, 5-fold.
    assert [len(each) for each in rows] == [8 * 40 * 20] * 3
    for label in range(3):
        for attribute in range(2):
            row, column = drawn(sheet, 3 + attribute)
            here = (row >= rows[label].min()) & (row <= rows[label].max())
            columns = column[here]
            assert len(columns) == 4 * 40 * 20
            left = columns.max() < sheet.width / 2
            assert left == bool(ALIGNED[label, attribute])
            assert left or columns.min() > sheet.width / 2


def test_places_without_a_sample_stay_empty():
    sheet = contact_sheet(split_of([(0, 0), (0, 0), (2, 1)]), ALIGNED, per_side=3)
    assert [len(drawn(sheet, label)[0]) for label in range(3)] == [2 * 800, 0, 800]
    grey = (np.asarray(sheet) == 240).all(-1).sum()
    assert 15 * 1600 <= grey < 15.1 * 1600  # but for the edges of letters


def test_samples_are_chosen_by_seed_and_once_each():
    split = split_of([(0, 0)] * 40)
    split.images[:, 0] = torch.arange(40, dtype=torch.uint8)[:, None, None]

    def chosen(seed):
        pixels = np.asarray(contact_sheet(split, ALIGNED, 5, seed))
        return {red for red, green, blue in pixels.reshape(-1, 3).tolist() if green == 0 == blue}

    assert chosen(0) == chosen(0) != chosen(1)
    assert len(chosen(0)) == 5


@pytest.mark.parametrize(("side", "tile"), [(8, 40), (28, 56), (32, 64), (96, 96), (224, 96)])
def test_small_images_are_enlarged_by_whole_factors_and_large_ones_reduced(side, tile):
    split = split_of([(0, 0)], side)
    rows, columns = drawn(contact_sheet(split, ALIGNED, 1), 0)
    assert np.ptp(rows) + 1 == tile
    assert abs(np.ptp(columns) + 1 - tile / 2) <= (4 if side > 96 else 0)


def test_enlarging_keeps_the_pixels():
    split = GroupedSplit(
        torch.randint(256, (1, 3, 8, 10), dtype=torch.uint8), torch.tensor([1]), torch.tensor([1])
    )
    sheet = np.asarray(contact_sheet(split, ALIGNED, 1))
    expected = split.images[0].permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (32, 40, 3))[:, :, 0]
    assert (windows == expected.numpy()).all((2, 3, 4)).sum() == 1
