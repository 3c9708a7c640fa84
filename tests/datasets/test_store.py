import dataclasses
import errno
import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import datasets
from harness.datasets import FAMILIES, describe, folder_of, get, load, prepare
from harness.datasets.decoding import ImageFiles
from harness.datasets.recipe import SplitArrays, only


@pytest.fixture
def builds(monkeypatch):
    """Counts how often `synthetic` is built."""
    calls = []
    recipe = get("synthetic")

    def build(root, ratio, seed, progress):
        calls.append((ratio, seed))
        return recipe.build(root, ratio, seed, progress)

    monkeypatch.setitem(FAMILIES, "synthetic", only(dataclasses.replace(recipe, build=build)))
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
from harness.datasets import FAMILIES, get, prepare
from harness.datasets.recipe import only
root = pathlib.Path(sys.argv[1])
recipe = get("synthetic")
def build(*arguments):
    with (root / "builds").open("a") as log:
        log.write("built\\n")
    time.sleep(1)
    return recipe.build(*arguments)
FAMILIES["synthetic"] = only(dataclasses.replace(recipe, build=build))
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
        "unknown data set 'cmnsit'. Did you mean 'cmnist'? "
        f"Available: {', '.join(sorted(FAMILIES))}."
    )
    with pytest.raises(ValueError, match="^unknown data set 'zzz'. Available: "):
        get("zzz")


def test_recipes_are_consistent():
    for name, family in FAMILIES.items():
        if name in ("folder", "table"):  # which need files
            continue
        recipe = family.recipe("")
        assert recipe.name == family.name == name
        assert recipe.aligned_table().shape == (recipe.num_classes, recipe.num_attributes)
        assert set(recipe.backbones) == {"paper", "quick"}
        assert "\n" not in recipe.summary
        json.dumps(dict(recipe.raw_files))


def test_the_data_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert datasets.default_root() == tmp_path
    monkeypatch.delenv("HARNESS_DATA")
    assert datasets.default_root().parts[-2:] == (".cache", "harness-data")


@pytest.fixture
def files(tmp_path, monkeypatch, write_image):
    """`synthetic` becomes a data set of eight image files per split, whose pixels are returned."""
    splits = ("train", "valid_biased", "valid_unbiased", "test")
    paths = {split: [tmp_path / f"raw/{split}/{n}.png" for n in range(8)] for split in splits}
    pixels = {split: np.stack([write_image(path) for path in paths[split]]) for split in splits}
    labels = np.arange(8) % 4

    def build(root, ratio, seed, progress):
        return {
            split: SplitArrays(
                ImageFiles(tuple(paths[split]), (16, 16), "exact"), labels, labels, np.arange(8)
            )
            for split in splits
        }

    recipe = dataclasses.replace(
        get("synthetic"), build=build, provenance=lambda root: {"table.csv": f"md5 in {root.name}"}
    )
    monkeypatch.setitem(FAMILIES, "synthetic", only(recipe))
    return pixels


def test_image_files_are_decoded_into_arrays(tmp_path, files):
    seen = []
    data = load("synthetic", tmp_path, 1, progress=lambda *call: seen.append(call))
    for name, split in {"train": data.train, **data.evaluation}.items():
        np.testing.assert_array_equal(split.images, files[name])
    assert seen == [(f"decoding the {name} images", 8, 8) for name in files]
    manifest = describe("synthetic", tmp_path, 1)
    written = (folder_of(get("synthetic"), tmp_path, 1, 0) / "train_images.npy").read_bytes()
    assert manifest["files"]["train_images.npy"] == hashlib.sha256(written).hexdigest()
    assert manifest["sources"].keys() == {
        "table.csv",
        *(f"names and sizes of the {name} images" for name in files),
    }
    assert manifest["sources"]["table.csv"] == f"md5 in {tmp_path.name}"


def test_loaded_images_are_the_pages_of_the_file(tmp_path, files):
    images = load("synthetic", tmp_path, 1).train.images
    path = folder_of(get("synthetic"), tmp_path, 1, 0) / "train_images.npy"
    mapped = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    start, end = images.data_ptr(), images.data_ptr() + images.nbytes
    assert any(low <= start and end <= high for low, high in mapped)


def test_a_failed_build_leaves_no_arrays(tmp_path, files):
    damaged = tmp_path / "raw/test/5.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"^cannot read {damaged}, image 6 of 8: "):
        prepare("synthetic", tmp_path, 1)
    assert not list((tmp_path / "arrays").rglob("*.npy"))
    assert not list((tmp_path / "arrays").rglob("*.partial"))


KILLED = """
import dataclasses, os, pathlib, sys
import numpy as np
from PIL import Image
from harness.datasets import FAMILIES, get, prepare
from harness.datasets.decoding import ImageFiles
from harness.datasets.recipe import SplitArrays, only
root = pathlib.Path(sys.argv[1])
Image.new("RGB", (16, 16)).save(root / "image.png")
zeros = np.zeros(300, int)
split = SplitArrays(ImageFiles((root / "image.png",) * 300, (16, 16)), zeros, zeros, zeros)
splits = dict.fromkeys(("train", "valid_biased", "valid_unbiased", "test"), split)
recipe = dataclasses.replace(get("synthetic"), build=lambda *arguments: splits)
FAMILIES["synthetic"] = only(recipe)
def killed(description, done, total):
    if "test" in description:
        os._exit(9)
prepare("synthetic", root, 1, progress=killed)
"""


def test_a_killed_build_leaves_nothing_that_could_be_used(tmp_path, files):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60)
    assert process.returncode == 9
    assert describe("synthetic", tmp_path, 1) is None
    (left,) = (tmp_path / "arrays/synthetic").glob("*.partial")
    assert (left / "train_images.npy").exists() and not (left / "manifest.json").exists()
    data = load("synthetic", tmp_path, 1)
    np.testing.assert_array_equal(data.train.images, files["train"])
    assert not left.exists()


@pytest.mark.parametrize("as_files", [False, True])
def test_rows_of_a_split_stay_together(tmp_path, write_image, as_files):
    paths = tuple(tmp_path / f"{n}.png" for n in range(5))
    images = np.arange(5, dtype=np.uint8)[:, None, None, None]
    split = SplitArrays(
        ImageFiles(paths, (1, 1)) if as_files else images,
        np.arange(5),
        np.arange(5) + 10,
        np.arange(5) + 20,
    )
    taken = split.take(np.array([3, 1]))
    if as_files:
        assert taken.images == ImageFiles((paths[3], paths[1]), (1, 1))
    else:
        assert taken.images[:, 0, 0, 0].tolist() == [3, 1]
    assert [column.tolist() for column in taken[1:]] == [[3, 1], [13, 11], [23, 21]]
