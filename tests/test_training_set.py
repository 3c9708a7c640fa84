"""Batches: which samples come, how often, and how they are augmented."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, functional, v2

from harness.training_set import (
    BiasedDataset,
    GroupedSplit,
    PhotoTransform,
    TrainingSet,
    Transform,
    training_fingerprint,
)

CPU = torch.device("cpu")


def of_size(tiny: BiasedDataset, count: int) -> TrainingSet:
    """Black 1x1 images."""
    train = GroupedSplit(
        torch.zeros(count, 1, 1, 1, dtype=torch.uint8),
        torch.arange(count) % 2,
        torch.zeros(count, dtype=torch.long),
    )
    return TrainingSet(dataclasses.replace(tiny, train=train, transform=Transform()), CPU)


def indices(batches: object) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]  # type: ignore[attr-defined]


def test_shuffled_covers_every_sample_once_per_epoch_and_keeps_the_short_batch(
    tiny: BiasedDataset,
) -> None:
    torch.manual_seed(0)
    drawn = indices(of_size(tiny, 10).shuffled(4, steps=7))
    assert [len(batch) for batch in drawn] == [4, 4, 2, 4, 4, 2, 4]
    epochs = [sum(drawn[:3], []), sum(drawn[3:6], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


def test_drop_last_leaves_out_the_short_batch(tiny: BiasedDataset) -> None:
    torch.manual_seed(0)
    drawn = indices(of_size(tiny, 10).shuffled(4, steps=40, drop_last=True))
    assert {len(batch) for batch in drawn} == {4}
    for one, other in zip(drawn[::2], drawn[1::2], strict=True):
        assert len({*one, *other}) == 8  # no repetition within an epoch
    assert {index for batch in drawn for index in batch} == set(range(10))  # left out at random


def test_drop_last_with_too_few_samples(tiny: BiasedDataset) -> None:
    with pytest.raises(ValueError, match="batch_size=11 must not exceed the 10 training samples"):
        of_size(tiny, 10).shuffled(11, steps=1, drop_last=True)
    assert len(indices(of_size(tiny, 10).shuffled(11, steps=1))[0]) == 10


def test_shuffled_permutations_are_uniform(tiny: BiasedDataset) -> None:
    """Each of 3! orders, 600 epochs: 100 ± 3.5 standard deviations of 9.1."""
    torch.manual_seed(0)
    epochs = indices(of_size(tiny, 3).shuffled(3, steps=600))
    counts = torch.bincount(torch.tensor([100 * a + 10 * b + c for a, b, c in epochs]))
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert ((counts - 100).abs() < 32).all()


def test_weighted_law(tiny: BiasedDataset) -> None:
    """10 of 1000 samples weigh 80: their share is 800 / 1790 = .4469; repeats are as i.i.d. draws.

    Expected number of distinct samples in a batch of 256: 10 (1 - (1 - 80/1790)^256) +
    990 (1 - (1 - 1/1790)^256) = 140.8, thus 115.2 duplicates.
    """
    weights = torch.ones(1000)
    weights[:10] = 80
    torch.manual_seed(0)
    batches = indices(of_size(tiny, 1000).weighted(weights, 256, steps=200))
    assert [len(batch) for batch in batches] == [256] * 200
    drawn = torch.tensor(batches)  # (200, 256)
    assert abs((drawn < 10).float().mean().item() - 0.4469) < 0.005
    counts = torch.bincount(drawn.flatten(), minlength=1000)
    # Within the mined and within the rest every sample is drawn alike; 5 standard deviations.
    for part, expected in ((counts[:10], 51200 * 80 / 1790), (counts[10:], 51200 / 1790)):
        assert ((part - expected).abs() < 5 * expected**0.5).all()
    duplicates = [256 - len(set(batch)) for batch in batches]
    assert abs(sum(duplicates) / 200 - 115.2) < 1.5


def test_a_sample_of_weight_zero_is_never_drawn(tiny: BiasedDataset) -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0])
    torch.manual_seed(0)
    drawn = torch.tensor(indices(of_size(tiny, 4).weighted(weights, 100, steps=10)))
    assert set(drawn.flatten().tolist()) == {1, 3}


def test_ordered_yields_every_sample_once_without_augmentation(
    train: TrainingSet, tiny: BiasedDataset
) -> None:
    batches = list(train.ordered(24))
    assert [len(batch.labels) for batch in batches] == [24, 24, 16]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, tiny.train.images.float() / 255)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), tiny.train.labels)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(64))
    torch.manual_seed(0)
    augmented = torch.cat([batch.images for batch in train.ordered(24, augment=True)])
    assert not torch.equal(augmented, images)


def test_batches_hold_the_samples_their_indices_name(tiny: BiasedDataset) -> None:
    plain = TrainingSet(dataclasses.replace(tiny, transform=Transform()), CPU)
    torch.manual_seed(0)
    weights = torch.ones(64)
    for batch in (*plain.shuffled(16, 5), *plain.weighted(weights, 16, 5)):
        assert torch.equal(batch.images, tiny.train.images[batch.indices].float() / 255)
        assert torch.equal(batch.labels, tiny.train.labels[batch.indices])


def test_progress_is_observed(tiny: BiasedDataset) -> None:
    seen: list[tuple[int, int]] = []
    train = TrainingSet(tiny, CPU, lambda done, total: seen.append((done, total)))
    list(train.shuffled(16, 2)), list(train.weighted(torch.ones(64), 16, 1)), list(train.ordered(9))
    assert seen == [(1, 2), (2, 2), (1, 1)]


def test_the_bias_attribute_is_not_there(train: TrainingSet, tiny: BiasedDataset) -> None:
    tensors = [value for value in vars(train).values() if isinstance(value, Tensor)]
    assert len(tensors) == 2
    for value in tensors:
        assert value.shape != tiny.train.attributes.shape or not torch.equal(
            value, tiny.train.attributes
        )
    assert not hasattr(train, "attributes")


def test_fingerprint_follows_arrays_and_transform() -> None:
    plain = training_fingerprint("a", Transform())
    others = {
        training_fingerprint("b", Transform()),
        training_fingerprint("a", Transform(crop_padding=4)),
        training_fingerprint("a", Transform(flip=True)),
        training_fingerprint("a", Transform(mean=(0.5,))),
        training_fingerprint("a", Transform(std=(0.5,))),
    }
    assert len(others | {plain}) == 6
    assert training_fingerprint("a", Transform()) == plain


# Augmentation


def numbered(size: int) -> Tensor:
    """An image without two equal crops: pixels 1 … size², in two channels."""
    return torch.arange(1, size * size + 1).view(1, size, size).repeat(2, 1, 1).to(torch.uint8)


def test_crops_are_uniform_over_all_81_offsets() -> None:
    """In law torchvision's RandomCrop(size, padding=4), which draws both offsets from 0 … 8."""
    image = numbered(15)
    padded = functional.pad(image, [4, 4, 4, 4])
    expected = {
        functional.crop(padded, top, left, 15, 15).float().div(255).numpy().tobytes(): (top, left)
        for top in range(9)
        for left in range(9)
    }
    assert len(expected) == 81
    torch.manual_seed(0)
    count = 81 * 200
    crops = Transform(crop_padding=4)(image.expand(count, -1, -1, -1), augment=True)
    counts = torch.zeros(9, 9)
    for crop in crops:
        counts[expected[crop.numpy().tobytes()]] += 1
    chi_squared = ((counts - 200) ** 2 / 200).sum().item()
    assert chi_squared < 144.6  # the 0.99999 quantile with 80 degrees of freedom


def test_samples_are_augmented_independently_of_each_other() -> None:
    image = numbered(4).expand(4000, -1, -1, -1)
    torch.manual_seed(0)
    flipped = Transform(flip=True)(image, augment=True)
    mirrored = (flipped == (image.flip(-1).float() / 255)).flatten(1).all(1)
    plain = (flipped == (image.float() / 255)).flatten(1).all(1)
    assert (mirrored ^ plain).all()
    assert abs(mirrored.float().mean().item() - 0.5) < 0.04  # 5 standard deviations
    both = (mirrored[1:] & mirrored[:-1]).float().mean().item()
    assert abs(both - 0.25) < 0.04


def test_crop_and_flip_are_independent() -> None:
    image = numbered(4)
    padded = functional.pad(image, [1, 1, 1, 1])
    made = {}
    for offset in range(9):
        crop = functional.crop(padded, offset // 3, offset % 3, 4, 4).float() / 255
        made[crop.numpy().tobytes()] = 2 * offset
        made[crop.flip(-1).contiguous().numpy().tobytes()] = 2 * offset + 1
    assert len(made) == 18
    torch.manual_seed(0)
    augmented = Transform(crop_padding=1, flip=True)(image.expand(3600, -1, -1, -1), augment=True)
    counts = torch.bincount(torch.tensor([made[a.numpy().tobytes()] for a in augmented]))
    assert ((counts - 200) ** 2 / 200).sum() < 57.0  # 0.999995 quantile, 17 degrees of freedom


def test_normalisation() -> None:
    """(v / 255 - mean) / std by hand, for v of 0, 51 and 255."""
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).repeat(1, 2, 1, 1)
    made = Transform(mean=(0.5, 0.2), std=(0.25, 0.1))(images, augment=False)
    expected = torch.tensor([[-2.0, -2.0], [-1.2, 0.0], [2.0, 8.0]])
    assert made.dtype == torch.float32
    torch.testing.assert_close(made[:, :, 0, 0], expected, atol=1e-6, rtol=0)
    assert Transform()(images, augment=True)[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


def test_evaluation_is_not_augmented_and_draws_nothing() -> None:
    image = numbered(4).expand(50, -1, -1, -1)
    torch.manual_seed(0)
    made = Transform(crop_padding=2, flip=True)(image, augment=False)
    assert torch.equal(made, image.float() / 255)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert image[0, 0, 0, 0] == 1  # the stored images are not written to


# Photographs

PHOTO = PhotoTransform(
    size=24, resize=27, scale=(0.7, 1.0), ratio=(3 / 4, 4 / 3), mean=(0.0,) * 3, std=(1.0,) * 3
)


def photos(count: int, height: int, width: int) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, height, width), generator=drawn).to(torch.uint8)


def boxes(transform: PhotoTransform, count: int, height: int, width: int) -> Tensor:
    """(count, 5) left, top, width, height and mirrored of random crops, read off the output.

    The image holds its own coordinates, along which bilinear sampling is linear: an output pixel
    centre u in (0, size) shows left + u * width / size - 1/2.
    """
    col = torch.arange(width).expand(height, width)
    row = torch.arange(height)[:, None].expand(height, width)
    image = torch.stack([col, row, torch.zeros(height, width)]).to(torch.uint8)
    crops = transform(image.expand(count, -1, -1, -1), augment=True) * 255  # (count, 3, s, s)
    near, far = transform.size // 4, 3 * transform.size // 4
    found = []
    for line in (crops[:, 0, near], crops[:, 1, :, near]):
        per_pixel = (line[:, far] - line[:, near]) / (far - near)
        first = line[:, near] - per_pixel * (near + 0.5) + 0.5  # where the edge u = 0 lies
        length = per_pixel * transform.size
        found.append((torch.minimum(first, first + length), length))
    (left, wide), (top, high) = found
    mirrored = (wide < 0).float()
    return torch.stack([left, top, wide.abs(), high, mirrored], 1)


@pytest.mark.parametrize(("height", "width"), [(22, 18), (18, 22), (20, 20), (23, 12)])
def test_random_crops_are_those_of_torchvision(height: int, width: int) -> None:
    """The crop that was drawn, made by torchvision, is the output to the last pixel row."""
    images = photos(40, height, width)
    torch.manual_seed(3)
    drawn = boxes(PHOTO, 40, height, width)
    torch.manual_seed(3)
    made = PHOTO(images, augment=True)
    torch.testing.assert_close(drawn, drawn.round(), atol=1e-3, rtol=0)
    mirrored = []
    for image, crop, (left, top, wide, high, mirror) in zip(
        images, made, drawn.round().int().tolist(), strict=True
    ):
        expected = functional.resized_crop(image / 255, top, left, high, wide, [24, 24])
        expected = expected.flip(-1) if mirror else expected
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)
        mirrored.append(mirror)
    assert set(mirrored) == {0, 1}


@pytest.mark.parametrize(("height", "width"), [(44, 36), (36, 48)])
def test_random_crops_have_the_law_of_torchvision(height: int, width: int) -> None:
    """Kolmogorov-Smirnov tests of position and shape, each at a level of 1e-6."""
    count = 4000
    torch.manual_seed(0)
    transform = dataclasses.replace(PHOTO, size=8, scale=(0.3, 1.0), ratio=(1 / 2, 2.0))
    ours = boxes(transform, count, height, width).round()
    image = torch.empty(1, height, width)
    theirs = torch.tensor(
        [
            RandomResizedCrop.get_params(image, transform.scale, transform.ratio)
            for _ in range(count)
        ]
    )[:, [1, 0, 3, 2]].float()
    columns = [("left", 0), ("top", 1), ("width", 2), ("height", 3)]
    for name, column in columns:
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6, name
    for name, combine in (("area", torch.mul), ("aspect", torch.div)):
        one, other = (combine(each[:, 2], each[:, 3]) for each in (ours, theirs))
        assert ks_2samp(one, other).pvalue > 1e-6, name
    assert abs(ours[:, 4].mean().item() - 0.5) < 5 * 0.5 / count**0.5


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10)])
def test_the_centre_is_cropped_where_no_draw_fits(height: int, width: int) -> None:
    torch.manual_seed(0)
    drawn = boxes(dataclasses.replace(PHOTO, scale=(1.0, 1.0)), 20, height, width)
    image = torch.empty(1, height, width)
    top, left, high, wide = RandomResizedCrop.get_params(image, (1.0, 1.0), PHOTO.ratio)
    assert (drawn[:, :4].round() == torch.tensor([left, top, wide, high])).all()


@pytest.mark.parametrize(("height", "width"), [(218, 178), (30, 41), (27, 27), (24, 100)])
@pytest.mark.parametrize(("size", "resize"), [(24, 27), (24, 24), (224, 256)])
def test_photos_are_evaluated_on_the_centre_of_torchvision(
    height: int, width: int, size: int, resize: int
) -> None:
    images = photos(3, height, width)
    transform = dataclasses.replace(PHOTO, size=size, resize=resize)
    reference = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])
    made = transform(images, augment=False)
    assert made.shape == (3, 3, size, size) and made.dtype == torch.float32
    torch.testing.assert_close(made, reference(images / 255), atol=1e-6, rtol=0)
    # torchvision rounds to whole grey levels when it is given bytes
    torch.testing.assert_close(made, reference(images) / 255, atol=1 / 255 + 1e-6, rtol=0)


def test_photos_are_normalised_per_channel() -> None:
    images = photos(2, 30, 30)
    transform = dataclasses.replace(PHOTO, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    for augment in (False, True):
        torch.manual_seed(0)
        plain = PHOTO(images, augment)
        torch.manual_seed(0)
        expected = functional.normalize(plain, [0.1, 0.2, 0.3], [0.5, 0.25, 2.0])
        torch.testing.assert_close(transform(images, augment), expected)


def test_a_network_reads_squares_of_photos(tiny: BiasedDataset) -> None:
    split = GroupedSplit(photos(6, 22, 18), torch.arange(6) % 2, torch.zeros(6, dtype=torch.long))
    train = TrainingSet(dataclasses.replace(tiny, train=split, transform=PHOTO), CPU)
    assert train.image_shape == (3, 24, 24)
    assert next(train.shuffled(4, 1)).images.shape == (4, 3, 24, 24)
