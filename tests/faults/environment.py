"""Disks that are full or read-only, and a machine without /dev/shm or a home folder."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.faults.catalogue import fault
from tests.faults.lab import REPOSITORY, Lab, Outcome, Sweep

FULL = os.strerror(errno.ENOSPC)


def privately(*steps: str) -> list[str]:
    """A command prefix: runs what follows with mounts of its own, which nobody else sees."""
    return ["unshare", "-m", "sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh"]


def tiny(folder: Path | str, size: str) -> str:
    """A step that lays an empty disk of a size over a folder."""
    return f"mount -t tmpfs -o size={size} tmpfs {folder}"


def read_only(folder: Path) -> list[str]:
    """Steps that make a folder read-only."""
    return [f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}"]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of a size, mounted where everybody sees it; unmounted at the end."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(filler: Path) -> None:
    """Writes a file until the disk is really full."""
    with filler.open("wb", buffering=0) as file:
        for block in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def expect(sweep: Sweep, *texts: str, code: int) -> None:
    """Fails unless a sweep ended with a code, and said these things in its last line."""
    if sweep.process.returncode != code or not all(t in sweep.last_line for t in texts):
        raise AssertionError(f"exit {sweep.process.returncode}, no {texts}: {sweep.output}")


def harness(*words: str, prefix: tuple[str, ...] | list[str] = ()) -> tuple[int, str]:
    """Runs a command to its end; returns the exit code and all it printed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "harness", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


@fault("disk full", "the disk of the store filled to the last byte at a random record", times=5)
def fill_the_store(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    store = lab.new_store()
    with small_disk(store.with_suffix(".disk"), "256m") as disk:
        sweep = lab.start(disk)
        if count := rng.randrange(10):
            sweep.wait_for_records(count)
        else:
            sweep.wait_for(lambda: bool(list(disk.glob("studies/*/study.json"))), "study")
        fill(disk / "filler")
        before = len(sweep.look())
        sweep.end()
        (disk / "filler").unlink()
        expect(sweep, FULL, "the same command continues", code=1)
        again = lab.finish(disk)
        shutil.copytree(disk, store)
    return Outcome(store, [sweep, again], before, codes=[1, 0])


@fault("data disk full", "the data folder on a disk of 64 kB, while it is built", times=1)
def fill_the_data_folder(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    sweep = lab.start(lab.new_store(), prefix=privately(tiny(lab.folder / "data", "64k")))
    outcome = lab.continued(sweep, code=2)
    expect(sweep, FULL, code=2)
    return outcome


@fault("/tmp full", "/tmp on a disk of 256 kB, which Ray keeps its sockets and logs in", times=1)
def fill_the_temporary_folder(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    kept = [p for p in map(Path, (lab.folder, sys.prefix, REPOSITORY)) if p.is_relative_to("/tmp")]
    steps = ["mount --bind /tmp /mnt", tiny("/tmp", "256k")]
    for path in kept:
        steps += [f"mkdir -p {path}", f"mount --bind /mnt/{path.relative_to('/tmp')} {path}"]
    sweep = lab.start(lab.new_store(), prefix=privately(*steps))
    outcome = lab.continued(sweep)
    if sweep.process.returncode == 0:
        raise AssertionError(f"256 kB were enough: {sweep.output}")
    return outcome


@fault("/dev/shm full", "/dev/shm on a disk of 64 kB", times=1)
def fill_shared_memory(lab: Lab, rng: random.Random) -> Outcome:
    lab.undisturbed()
    sweep = lab.finish(lab.new_store(), prefix=privately(tiny("/dev/shm", "64k")))
    return Outcome(sweep.store, [sweep], 0, told="(nothing: it finishes)", codes=[0])


def leave_without_home(lab: Lab, rng: random.Random, prefix: list[str]) -> Outcome:
    """Nothing that the sweep needs is in the home folder, where the data folder is named."""
    lab.undisturbed()
    sweep = lab.finish(lab.new_store(), prefix=prefix)
    code, said = harness("data", "prepare", "synthetic", "--ratio", "1", prefix=prefix)
    if "Traceback" in said or (code and len(said.splitlines()) != 1):
        raise AssertionError(f"without --data-root: exit {code}, {said}")
    return Outcome(sweep.store, [sweep], 0, told="(nothing: it finishes)", codes=[0])


for words in (["-u", "HOME"], ["HOME=/proc/nonexistent"]):
    fault(f"no home ({' '.join(words)})", "no home folder", times=1)(
        partial(leave_without_home, prefix=["env", *words])
    )


@fault("read-only store", "the store made read-only between interruption and continuation", times=1)
def make_the_store_read_only(lab: Lab, rng: random.Random) -> Outcome:
    sweep = lab.start_until_a_random_moment(rng)
    sweep.wait_for_records(1)
    sweep.send(signal.SIGTERM)
    sweep.end()
    prefix = privately(*read_only(sweep.store))
    refused = lab.finish(sweep.store, prefix=prefix)
    expect(refused, "cannot write", str(sweep.store), code=2)
    code, said = harness("leaderboard", "--store", str(sweep.store), prefix=prefix)
    if code or "Traceback" in said:
        raise AssertionError(f"`harness leaderboard`: exit {code}, {said}")
    again = lab.finish(sweep.store)
    sweeps = [sweep, refused, again]
    told = refused.last_line
    return Outcome(sweep.store, sweeps, len(sweep.known), told=told, codes=[None, 2, 0])
