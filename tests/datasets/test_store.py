import dataclasses
import errno
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from harness import datasets
from harness.datasets import RECIPES, describe, get, load, prepare


@pytest.fixture
def builds(monkeypatch):
    """Counts how often `synthetic` is built."""
    calls = []
    recipe = RECIPES["synthetic"]

    def build(root, ratio, seed, progress):
        calls.append((ratio, seed))
        return recipe.build(root, ratio, seed, progress)

    monkeypatch.setitem(RECIPES, "synthetic", dataclasses.replace(recipe, build=build))
    return calls


def test_load_gives_what_a_recipe_promises(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load("synthetic", tmp_path, 5)
    assert (data.name, data.ratio, data.num_classes, data.num_attributes) == ("synthetic", 5, 4, 4)
    assert set(data.evaluation) == {"valid_biased", "valid_unbiased", "test"}
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == data.train.attributes.dtype == torch.int64
    assert data.aligned.equal(torch.eye(4, dtype=torch.bool))
    assert load("synthetic", tmp_path, 5.0) is data


def test_writing_to_a_tensor_does_not_reach_the_disk(tmp_path):
    folder = prepare("synthetic", tmp_path, 5)
    load("synthetic", tmp_path, 5).train.images.zero_()
    assert np.load(folder / "train_images.npy").any()


def test_arrays_are_built_once_per_ratio_and_seed(tmp_path, builds):
    for ratio, seed in ((1, 0), (1.0, 0), (0.5, 0), (1, 1), (0.5, 0)):
        prepare("synthetic", tmp_path, ratio, seed)
    assert builds == [(1, 0), (0.5, 0), (1, 1)]
    names = {folder.name for folder in (tmp_path / "arrays/synthetic").iterdir() if folder.is_dir()}
    assert names == {"ratio=1,seed=0,v1", "ratio=0.5,seed=0,v1", "ratio=1,seed=1,v1"}


def test_fingerprints_tell_arrays_apart(tmp_path):
    first = load("synthetic", tmp_path / "a", 1)
    assert load("synthetic", tmp_path / "b", 1).fingerprint == first.fingerprint
    assert load("synthetic", tmp_path / "a", 2).fingerprint != first.fingerprint
    assert load("synthetic", tmp_path / "a", 1, seed=1).fingerprint != first.fingerprint


def test_describe_reads_the_manifest(tmp_path):
    assert describe("synthetic", tmp_path, 5) is None
    prepare("synthetic", tmp_path, 5)
    manifest = describe("synthetic", tmp_path, 5)
    assert manifest["ratio"] == 5 and manifest["seed"] == 0 and manifest["version"] == 1
    train = load("synthetic", tmp_path, 5).train
    groups = np.array(manifest["groups"]["train"])
    assert groups.sum() == 2000
    assert groups[1, 2] == ((train.labels == 1) & (train.attributes == 2)).sum()


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (flip, "train_images.npy", "train_images.npy is not as written"),
        (truncate, "test_labels.npy", "test_labels.npy is not as written"),
        (lambda path: path.unlink(), "train_ids.npy", "train_ids.npy is missing"),
        (lambda path: path.unlink(), "manifest.json", "no readable manifest.json"),
        (truncate, "manifest.json", "no readable manifest.json"),
    ],
)
def test_damaged_arrays_are_built_again(tmp_path, builds, damage, name, message):
    folder = prepare("synthetic", tmp_path, 1)
    before = describe("synthetic", tmp_path, 1)
    damage(folder / name)
    with pytest.warns(UserWarning, match=message):
        data = load("synthetic", tmp_path, 1)
    assert len(builds) == 2
    assert data.fingerprint == before["fingerprint"]
    assert describe("synthetic", tmp_path, 1)["files"] == before["files"]


def test_an_interrupted_write_leaves_nothing_that_could_be_used(tmp_path, monkeypatch):
    save = np.save

    def full(path, array):
        if path.name == "test_images.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ValueError, match="cannot write to .*: No space left on device. Free some"):
        prepare("synthetic", tmp_path, 1)
    assert describe("synthetic", tmp_path, 1) is None
    monkeypatch.undo()
    folder = prepare("synthetic", tmp_path, 1)
    assert (folder / "test_images.npy").exists()
    assert not list(folder.parent.glob("*.partial"))


def test_a_root_that_is_not_writable_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"cannot write to {tmp_path}/file.*HARNESS_DATA"):
        prepare("synthetic", tmp_path / "file", 1)


CONCURRENT = """
import dataclasses, pathlib, sys, time
from harness.datasets import RECIPES, prepare
root = pathlib.Path(sys.argv[1])
recipe = RECIPES["synthetic"]
def build(*arguments):
    with (root / "builds").open("a") as log:
        log.write("built\\n")
    time.sleep(1)
    return recipe.build(*arguments)
RECIPES["synthetic"] = dataclasses.replace(recipe, build=build)
(root / f"ready{sys.argv[2]}").touch()
while len(list(root.glob("ready*"))) < 2:
    time.sleep(0.01)
prepare("synthetic", root, 1)
assert "torchvision" not in sys.modules
"""


def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-c", CONCURRENT, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(n)]) for n in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"


@pytest.mark.parametrize("ratio", [0, -1, 100.5, float("nan"), float("inf")])
def test_ratios_must_be_percentages(tmp_path, ratio):
    with pytest.raises(ValueError) as error:
        load("synthetic", tmp_path, ratio)
    assert str(error.value) == (
        f"conflict ratio must lie in (0, 100] percent, but got {ratio}. "
        "Published for synthetic: 1, 5."
    )


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(ValueError) as error:
        get("cmnsit")
    assert str(error.value) == (
        "unknown data set 'cmnsit'. Did you mean 'cmnist'? Available: cifar10c, cmnist, synthetic."
    )
    with pytest.raises(ValueError, match="^unknown data set 'zzz'. Available: "):
        get("zzz")


def test_recipes_are_consistent():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.aligned_table().shape == (recipe.num_classes, recipe.num_attributes)
        assert set(recipe.backbones) == {"paper", "quick"}
        assert "\n" not in recipe.summary
        json.dumps(dict(recipe.raw_files))


def test_the_data_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert datasets.default_root() == tmp_path
    monkeypatch.delenv("HARNESS_DATA")
    assert datasets.default_root().parts[-2:] == (".cache", "harness-data")
