import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from harness.datasets import bar, describe, load, prepare
from harness.datasets.recipe import silent


def make_original(root, write_image, per_action=5):
    for label, action in enumerate(bar.ACTIONS):
        for n in range(per_action):
            write_image(root / f"raw/bar/train/{action}_{n}.jpg", 60 + n, 90 - label)
        write_image(root / f"raw/bar/test/{action}_{per_action}.jpg", 60, 90)


def make_biased(root, write_image):
    folder = root / "raw/bar_be"
    for label, action in enumerate(bar.ACTIONS):
        for n in range(3):
            write_image(folder / f"train/align/{action}/{action}_{n}_{label}_9.jpg", 50, 40)
        for percent in ("1pct", "5pct"):
            path = folder / f"train/conflict/{percent}/{action}/x{percent}_{label}_{label}.jpg"
            write_image(path, 50, 40)
        write_image(folder / f"valid/{action}/v_{label}_{label}.jpg", 50, 40)
        write_image(folder / f"test/{action}/t_{label}_{(label + 3) % 6}.jpg", 50, 40)


def test_labels_are_alphabetical_and_the_test_conflicts(tmp_path, write_image):
    make_original(tmp_path, write_image)
    splits = bar.build(tmp_path, 0, 0, silent)
    assert list(splits) == ["train", "valid_biased", "test"]
    for name, split in splits.items():
        for path, label, attribute in zip(
            split.images.paths, split.labels, split.attributes, strict=True
        ):
            assert path.name.startswith(f"{bar.ACTIONS[label]}_")
            assert attribute == ((label + 1) % 6 if name == "test" else label)
    assert bar.ACTIONS == tuple(sorted(bar.ACTIONS))
    assert splits["test"].labels.tolist() == list(range(6))


def test_a_tenth_of_the_training_images_is_held_out(tmp_path, write_image):
    make_original(tmp_path, write_image)
    splits = [bar.build(tmp_path, 0, seed, silent) for seed in range(40)]
    for split in splits:
        train, valid = split["train"].ids.tolist(), split["valid_biased"].ids.tolist()
        assert sorted(train + valid) == list(range(30)) and len(valid) == 3
        assert train == sorted(train)
    assert len({tuple(split["valid_biased"].ids) for split in splits}) > 30
    again = bar.build(tmp_path, 0, 7, silent)
    np.testing.assert_array_equal(again["valid_biased"].ids, splits[7]["valid_biased"].ids)


def test_training_images_are_cropped_and_the_others_squeezed(tmp_path, write_image):
    make_original(tmp_path, write_image)
    data, splits = load("bar", tmp_path, 0), bar.build(tmp_path, 0, 0, silent)
    cropped = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    squeezed = transforms.Resize((224, 224))
    for name, prepared in (("train", cropped), ("valid_biased", squeezed), ("test", squeezed)):
        stored = data.train if name == "train" else data.evaluation[name]
        with Image.open(splits[name].images.paths[1]) as image:
            expected = np.asarray(prepared(image)).transpose(2, 0, 1)
        np.testing.assert_array_equal(stored.images[1], expected)
    assert set(data.evaluation) == {"valid_biased", "test"}
    assert data.ratio == 0 and not data.conflicting().any()


def test_an_unknown_action_is_named(tmp_path, write_image):
    make_original(tmp_path, write_image)
    write_image(tmp_path / "raw/bar/test/vaulting_3.jpg")
    with pytest.raises(ValueError) as error:
        prepare("bar", tmp_path, 0)
    assert str(error.value) == (
        f"{tmp_path}/raw/bar/test/vaulting_3.jpg: expected climbing, diving, fishing, pole "
        "vaulting, racing, throwing, but the name says 'vaulting'"
    )


@pytest.mark.parametrize("ratio", [1, 5])
def test_folders_say_what_conflicts_in_training(tmp_path, write_image, ratio):
    make_biased(tmp_path, write_image)
    splits = bar.build_be(tmp_path, ratio, 0, silent)
    train = splits["train"]
    assert [path.name for path in train.images.paths[18:]] == [
        f"x{ratio}pct_{label}_{label}.jpg" for label in range(6)
    ]
    assert train.labels.tolist() == [*np.repeat(range(6), 3), *range(6)]
    assert train.attributes.tolist() == [*np.repeat(range(6), 3), 1, 2, 3, 4, 5, 0]
    valid, test = splits["valid_biased"], splits["test"]
    assert valid.attributes.tolist() == valid.labels.tolist() == list(range(6))
    assert test.labels.tolist() == list(range(6))
    assert test.attributes.tolist() == [1, 2, 3, 4, 5, 0]


def test_the_biased_version_is_stored_and_loaded(tmp_path, write_image):
    make_biased(tmp_path, write_image)
    data = load("bar_be", tmp_path, 1)
    assert data.train.images.shape == (24, 3, 224, 224)
    assert data.conflicting().sum() == 6
    assert describe("bar_be", tmp_path, 1)["groups"]["train"][5] == [1, 0, 0, 0, 0, 3]
    assert data.transform(data.train.images[:2], augment=True).shape == (2, 3, 224, 224)


def test_a_missing_tree_comes_with_its_address(tmp_path):
    with pytest.raises(ValueError) as error:
        prepare("bar", tmp_path, 0)
    assert str(error.value) == (
        f"{tmp_path}/raw/bar lacks train, test. Get BAR from github.com/alinlab/BAR and unpack it "
        "so that this folder holds train/ACTION_NUMBER.jpg and test/ACTION_NUMBER.jpg."
    )
    with pytest.raises(ValueError, match="/raw/bar_be lacks train/align, train/conflict/5pct, val"):
        prepare("bar_be", tmp_path, 5)
    with pytest.raises(ValueError, match="^bar exists with conflict ratio 0 percent, but got 1.$"):
        prepare("bar", tmp_path, 1)
