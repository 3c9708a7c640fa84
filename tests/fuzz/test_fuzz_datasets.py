"""Lists, images, archives and manifests of data sets."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import JSON, ODD, WORDS, altered, damaged, one_line
from PIL import Image

from harness import datasets
from harness.datasets import celeba, folder, store, synthetic, table, waterbirds
from harness.datasets.decoding import ImageFiles
from harness.datasets.fetch import read_archive, unpickle_arrays, unzipped
from harness.datasets.recipe import silent
from harness.datasets.sources import RawFiles, Source
from harness.disk import seal

TABLE = (
    b"path,label,attribute,split\na.png,0,0,train\na.png,0,1,train\na.png,1,1,train\n"
    b"a.png,0,0,valid\na.png,1,1,valid\na.png,0,1,test\n"
)
CELLS = ODD | WORDS | st.sampled_from(["a.png", "../a.png", "0", "1", "train", "test", "valid"])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with an image inside and one outside."""
    outside = tmp_path_factory.mktemp("data")
    inside = outside / "home"
    inside.mkdir()
    for path in (outside / "a.png", inside / "a.png"):
        Image.new("RGB", (4, 4)).save(path)
    return inside


@st.composite
def tables(draw):
    rows = [line.split(b",") for line in TABLE.splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(1, len(rows) - 1))
        cell = draw(CELLS).encode("utf-8", "replace").replace(b'"', b'""')
        rows[row][draw(st.integers(0, 3))] = b'"' + cell + b'"'
    return b"\n".join(map(b",".join, rows))


@given(damaged(TABLE) | tables())
@example(TABLE.replace(b"train\na.png,0,1", b"train,x\na.png,0,1"))
@example(TABLE.replace(b"path,label", b"path,label,label").replace(b".png,", b".png,9,"))
@example(TABLE.replace(b"a.png,1", b"../a.png,1"))
@example(TABLE.replace(b"a.png,1", b"a\0.png,1"))
@example(TABLE.replace(b"a.png,0,0,train", b'"\n",0,0,train'))
@example(TABLE.replace(b",1,1,", b",9223372036854775808,-1,").replace(
    b"png,0", b"png,9223372036854775809"))  # fmt: skip
def test_any_table_gives_its_own_cells_or_is_refused_in_a_line(home, content):
    path = home / "t.csv"
    path.write_bytes(content)
    table.recipe_of.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recipe = datasets.get(f"table:{path}")
            splits = recipe.build(home, recipe.ratios[0], 0, silent)
    except ValueError as error:
        assert str(path) in one_line(error) or "validation images" in str(error)
        return
    for split in splits.values():
        for image in split.images.paths:
            assert image.resolve().is_relative_to(home.resolve())
    read = table._columns(path)
    train = splits["train"]
    for kind, numbers in (("label", train.labels), ("attribute", train.attributes)):
        texts = [read[kind][row] for row in train.ids]
        assert len({*texts}) == len({*numbers.tolist()}) or any(t.lstrip("-0") != t for t in texts)


@given(damaged(b"PAR1" + bytes(20) + b"PAR1") | st.binary(max_size=40))
def test_any_parquet_file_is_refused_in_a_line(home, content):
    path = home / "t.parquet"
    path.write_bytes(content)
    table.recipe_of.cache_clear()
    with pytest.raises(ValueError) as error:
        datasets.get(f"table:{path}")
    assert str(path) in one_line(error.value)


def png(mode: str, size=(5, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 10, 10)).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    head = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


IMAGES = [png(mode) for mode in ("RGB", "P", "L", "1", "RGBA", "I;16")] + [jpeg(), bomb()]


@given(st.sampled_from(IMAGES).flatmap(damaged), st.sampled_from(["exact", "resize", "centre"]))
@example(bomb(), "resize")
@example(png("I;16"), "resize")
def test_any_image_is_decoded_whole_or_refused_in_a_line(home, content, fit):
    path = home / "image.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            folder.size_of(path)
        except ValueError as error:
            assert str(path) in one_line(error)
        try:
            ImageFiles((path,), (5, 5), fit).save(home / "out.npy", silent, "decoding")
        except ValueError as error:
            assert str(path) in one_line(error)
            return
    assert np.load(home / "out.npy").shape == (1, 3, 5, 5)


ATTRIBUTES = b"3\nBlond_Hair Male\n1.jpg -1 1\n2.jpg 1 -1\n3.jpg 1 1\n"
PARTITION = b"1.jpg 0\n2.jpg 1\n3.jpg 2\n"


@given(damaged(ATTRIBUTES), damaged(PARTITION))
@example(ATTRIBUTES.replace(b"1.jpg", b"../../x"), PARTITION.replace(b"1.jpg", b"../../x"))
def test_any_list_of_celeba_is_read_or_refused_in_a_line(home, attributes, partition):
    raw = home / "raw" / "celeba"
    (raw / celeba.IMAGES).mkdir(parents=True, exist_ok=True)
    (raw / celeba.ATTRIBUTES).write_bytes(attributes)
    (raw / celeba.PARTITION).write_bytes(partition)
    try:
        splits = celeba.build(home, 3.64, 0, silent)
    except ValueError as error:
        one_line(error)
        return
    paths = [path for split in splits.values() for path in split.images.paths]
    assert all(".." not in path.parts and path.is_relative_to(raw) for path in paths)


BIRDS = b"img_filename,y,place,split\na/1.jpg,0,0,0\na/2.jpg,1,1,0\nb.jpg,0,1,1\nc.jpg,1,0,2\n"


@given(damaged(BIRDS))
@example(BIRDS.replace(b"b.jpg", b"/etc/passwd"))
@example(BIRDS.replace(b"b.jpg", b"../../../b.jpg"))
@example(BIRDS.replace(b"b.jpg", b"9" * 200_000))
@example(b"img_filename,y,place,split\n")
def test_any_list_of_waterbirds_is_read_or_refused_in_a_line(home, content):
    raw = home / "raw" / "waterbirds"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / waterbirds.TABLE).write_bytes(content)
    try:
        splits = waterbirds.build(home, 5.0, 0, silent)
    except ValueError as error:
        one_line(error)
        return
    paths = [path for split in splits.values() for path in split.images.paths]
    assert all(".." not in path.parts and path.is_relative_to(raw) for path in paths)


CARD = json.loads('{"name": "x", "aligned": [[true, false], [false, true]], "like": "cmnist"}')
NAMES = st.sampled_from(["0_0_0.png", "1_1_1.png", "2_0_1.png", "x.png", "9_7_7.png", "1_1.png"])


@given(
    st.dictionaries(st.sampled_from(["1pct", "0pct", "1.0pct", "5pct", "500pct", "٣pct"]),
                    st.lists(NAMES, max_size=3), max_size=2),
    altered(CARD).map(json.dumps).map(str.encode) | damaged(json.dumps(CARD).encode()) | st.none(),
)  # fmt: skip
def test_any_folder_of_images_is_read_or_refused_in_a_line(tmp_path_factory, ratios, card):
    root = tmp_path_factory.mktemp("tree")
    for ratio, names in ratios.items():
        for part in (f"{ratio}/align", f"{ratio}/conflict", f"{ratio}/valid", "test"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for part, name in [("align", "0_0_0.png"), ("align", "1_1_1.png"),
                           ("conflict", "2_0_1.png"), ("valid", "3_1_1.png"),
                           *(("valid", name) for name in names)]:  # fmt: skip
            Image.new("RGB", (2, 2)).save(root / ratio / part / name)
        Image.new("RGB", (2, 2)).save(root / "test" / "4_0_0.png")
    if card is not None:
        (root / "dataset.json").write_bytes(card)
    folder.recipe_of.cache_clear()
    try:
        recipe = datasets.get(f"folder:{root}")
        for ratio in recipe.ratios:
            recipe.build(root, ratio, 0, silent)
    except ValueError as error:
        assert str(root) in one_line(error)
        return
    except UserWarning:
        pass
    assert all(0 < ratio <= 100 for ratio in recipe.ratios)
    assert len(recipe.ratios) == len(ratios)


def archive(kind: str, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                made.writestr(name, b"content")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as made:
            for name in names:
                member = tarfile.TarInfo(name)
                if kind == "links":
                    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                member.size = 0 if kind == "links" else 7
                made.addfile(member, io.BytesIO(b"content"))
    return buffer.getvalue()


MEMBERS = st.sampled_from(["a", "b/a", "../a", "/a", "b/../../a", "..\\a", "a\n"]) | WORDS


@given(st.sampled_from(["zip", "tar", "links"]), st.lists(MEMBERS, max_size=3), st.data())
def test_any_archive_gives_the_right_bytes_or_none(home, kind, names, data):
    content = data.draw(damaged(archive(kind, names)))
    right = "9a0364b9e99bb480dd25e1f0284c8555"  # md5 of b"content"
    path = home / "package.tgz"
    path.write_bytes(content)
    sources = (Source("the package", lambda progress: read_archive(path, ["a"])),)
    files = RawFiles("it", "it", {"a": right}, sources)
    local = home / "raw" / "it" / "a"
    local.unlink(missing_ok=True)
    try:
        assert files.read(home, silent) == {"a": b"content"}
    except ValueError as error:
        one_line(error)
        assert not local.exists()
        return
    assert local.read_bytes() == b"content" and kind != "links"


@given(damaged(gzip.compress(b"content" * 9)))
def test_a_damaged_gzip_copy_is_never_read_as_another_file(home, content):
    folder = home / "raw" / "zipped"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.gz").write_bytes(content)
    files = RawFiles("it", "zipped", {"a": "dd31c1ac4b69c1f30b5bb81eda8ec3c1"}, ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = files.read(home, silent)["a"]
        except ValueError as error:
            one_line(error)
            return
    assert found == unzipped(content) == b"content" * 9


class Attack:
    def __reduce__(self):
        return Path.touch, (Path("attacked"),)


@given(
    damaged(pickle.dumps((np.arange(3), np.arange(2)), 2))
    | damaged(pickle.dumps([Attack()]))
    | st.binary(max_size=50)
)
def test_a_pickle_from_a_package_runs_nothing(home, content):
    try:
        unpickle_arrays(content)
    except Exception as error:  # what `RawFiles.read` turns into a line
        assert not isinstance(error, NameError)
    assert not Path("attacked").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    small = store.prepare("synthetic", root, 5.0)
    return root, small, json.loads((small / "manifest.json").read_text())


@given(st.data())
@example(None)
def test_a_damaged_manifest_is_damage_and_nothing_else(built, data):
    _, small, manifest = built
    manifest = {name: value for name, value in manifest.items() if name != "seal"}
    file = small / "manifest.json"
    if data is None:
        content = b"[" * 100_000
    else:
        plain = altered(manifest) | st.just(manifest)
        content = data.draw(
            damaged(seal(manifest, indent=2).encode())
            | plain.filter(lambda each: isinstance(each, dict)).map(seal).map(str.encode)
            | JSON.map(json.dumps).map(str.encode)
        )
    file.write_bytes(content)
    damage = store._damage(synthetic.RECIPE, small)
    read = store._manifest(small)
    if damage is None:
        assert read["files"] == manifest["files"] and read["name"] == "synthetic"
    if read is not None:
        assert json.dumps(read["groups"]) and all(
            isinstance(digest, str) for digest in read["sources"].values()
        )
