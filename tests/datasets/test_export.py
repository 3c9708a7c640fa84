import errno
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.datasets import export as module
from harness.datasets import get, load
from harness.datasets.export import export
from harness.datasets.recipe import silent
from harness.training_set import GroupedSplit, PhotoTransform, Transform

PHOTO = PhotoTransform(
    224, 256, (0.08, 1.0), (3 / 4, 4 / 3), (0.485, 0.456, 0.406), (0.2, 0.2, 0.3)
)
RECIPE = get("synthetic")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`synthetic` with 300 training images and 60 of each other split."""
    root = tmp_path_factory.mktemp("data")

    def first(split, count):
        return GroupedSplit(split.images[:count], split.labels[:count], split.attributes[:count])

    def make(ratio, seed=0):
        whole = load("synthetic", root, ratio, seed)
        evaluation = {name: first(split, 60) for name, split in whole.evaluation.items()}
        return replace(whole, train=first(whole.train, 300), evaluation=evaluation)

    return make


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """Two ratios in one folder, whose name is awkward."""
    target = tmp_path_factory.mktemp("export") / "eine, zweite: Größe"
    for ratio in (1, 5):
        export(data(ratio), RECIPE, target, silent)
    return target


def rows(split):
    """Every image with its label and attribute, in an order of their own."""
    return sorted(
        (image.tobytes(), label, attribute)
        for image, label, attribute in zip(
            split.images.numpy(), split.labels.tolist(), split.attributes.tolist(), strict=True
        )
    )


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ratio", [1, 5])
def test_what_is_exported_reads_back_bit_for_bit(data, exported, tmp_path, ratio):
    original, back = data(ratio), load(f"folder:{exported}", tmp_path, ratio)
    assert rows(back.train) == rows(original.train)
    assert set(back.evaluation) == set(original.evaluation)
    for name, split in original.evaluation.items():
        assert rows(back.evaluation[name]) == rows(split)
    assert back.aligned.equal(original.aligned)
    assert back.ratio == ratio


def test_exported_ratios_share_the_test_split(exported):
    assert get(f"folder:{exported}").ratios == (1, 5)
    assert {path.name for path in exported.iterdir()} == {"1pct", "5pct", "test", "dataset.json"}
    assert len(files(exported / "test")) == 60


def test_file_names_say_what_the_image_is(data, exported):
    train = data(5).train
    seen = []
    for side in ("align", "conflict"):
        for path in (exported / "5pct" / side).rglob("*.png"):
            row, label, attribute = map(int, path.stem.split("_"))
            assert path.parent.name == str(label)
            assert (side == "align") == (label == attribute)
            assert (label, attribute) == (train.labels[row], train.attributes[row])
            np.testing.assert_array_equal(Image.open(path), train.images[row].permute(1, 2, 0))
            seen.append(row)
    assert sorted(seen) == list(range(300))


@pytest.mark.parametrize("transform", [PHOTO, Transform(4, True, (0.1, 0.2, 0.3), (1, 2, 1 / 3))])
def test_an_export_trains_as_the_original(data, tmp_path, transform):
    turned = torch.eye(4, dtype=torch.bool).roll(1, 1)
    recipe = replace(
        RECIPE,
        transform=transform,
        backbones={"paper": ("resnet18", "imagenet"), "quick": ("resnet20", "none")},
        aligned=tuple(map(tuple, turned.tolist())),
        primary="conflicting_accuracy",
        unbiased="accuracy",
        like="cifar10c",
    )
    export(replace(data(1), aligned=turned), recipe, tmp_path, silent)
    back = get(f"folder:{tmp_path}")
    for name in ("transform", "backbones", "aligned", "primary", "unbiased", "like", "validation"):
        assert getattr(back, name) == getattr(recipe, name)
    assert back.image_shape == transform.output_shape((3, 16, 16))
    assert load(back.name, tmp_path / "data", 1).transform == transform


def test_a_data_set_without_unbiased_validation_reads_back_without(data, tmp_path):
    whole = data(1)
    valid, test = whole.evaluation["valid_biased"], whole.evaluation["test"]
    evaluation = {"valid_biased": replace(valid, attributes=valid.labels), "test": test}
    export(replace(whole, ratio=12.5, evaluation=evaluation), RECIPE, tmp_path, silent)
    back = load(f"folder:{tmp_path}", tmp_path / "data", 12.5)
    assert set(back.evaluation) == {"valid_biased", "test"}


def test_other_data_are_not_mixed_in(data, exported, tmp_path):
    before = files(exported)

    def refused(message, target=exported, ratio=2, seed=0, **changes):
        with pytest.raises(ValueError) as error:
            export(data(ratio, seed), replace(RECIPE, **changes), target, silent)
        assert str(error.value) == message

    refused(f"{exported}/5pct exists: delete it, or export to another folder", ratio=5)
    refused(
        f"{exported} holds synthetic, which differs from synthetic in test: export to another "
        "folder",
        seed=1,
    )
    refused(
        f"{exported} holds synthetic, which differs from other in name, transform, like: export "
        "to another folder",
        name="other",
        transform=PHOTO,
    )
    file = tmp_path / "a/thesis.tex"
    file.parent.mkdir()
    file.touch()
    for target in (file.parent, file):
        refused(f"{target} is not an empty folder: export to another one", target=target)
    assert files(exported) == before
    assert files(tmp_path) == {"a/thesis.tex"}


@pytest.mark.parametrize("at", [30, 90, 480])
def test_an_interrupted_export_can_be_run_again(data, tmp_path, monkeypatch, at):
    monkeypatch.setattr(module, "_EVERY", 30)
    whole = data(1)

    def interrupt(description, done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(whole, RECIPE, tmp_path, interrupt)
    assert not (tmp_path / "1pct").exists() and not list(tmp_path.glob(".*"))
    assert (tmp_path / "test").exists() == (at > 60)
    (tmp_path / ".1pct.partial/align").mkdir(parents=True)  # as a killed export leaves it
    (tmp_path / ".1pct.partial/align/0_0_0.png").touch()
    export(whole, RECIPE, tmp_path, silent)
    assert len(files(tmp_path)) == 481


def test_a_full_disk_is_one_line(data, tmp_path, monkeypatch):
    def full(self, path, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ValueError) as error:
        export(data(1), RECIPE, tmp_path, silent)
    assert str(error.value) == f"cannot write to {tmp_path}: No space left on device"
    assert files(tmp_path) == {"dataset.json"}


def test_progress_counts_the_images_that_are_written(data, tmp_path):
    for ratio, total in ((1, 480), (5, 420)):
        told = []
        export(data(ratio), RECIPE, tmp_path, lambda *each, told=told: told.append(each))
        assert told == [("writing PNG files", 250, total), ("writing PNG files", total, total)]
