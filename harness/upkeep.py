"""What is wrong with a store, and its repair.

The ledgers and study.json are the truth; all else is derived from them or can be computed again.
Repair therefore moves what is damaged there aside, next to where it was, and removes or rewrites
what is derived. Each of its steps is atomic, so that one that is killed is simply started again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from harness.console import data_progress, say
from harness.disk import is_sealed, replace_atomically, seal, sync_folder, unseal
from harness.inspection import (
    Finding,
    Line,
    archive_fault,
    ledger_lines,
    stage_fault,
)
from harness.study import Store, Study
from harness.upkeep_views import in_mlflow, in_optuna_view

ANEW = "the command that began the study, with its --concurrency, then writes it anew"


def check(store: Store) -> int:
    """Prints what is wrong with a store, which it only reads; returns the exit code."""
    _expect(store)
    running = {name for name in _folders(store) if _is_locked(_lock_path(store, name))}
    counts: Counter[str] = Counter()
    wrong = 0
    for findings in _findings(store, running, counts):
        for each in findings:
            wrong += 1
            verb = "repair" if each.mend else "repair cannot mend it:"
            say(f"{each.path}: {each.what}; {verb} {each.remedy}")
    say(f"{_summary(counts)}: {f'{wrong} findings' if wrong else 'nothing wrong'}")
    return 1 if wrong else 0


def repair(store: Store) -> int:
    """Mends what :func:`check` finds and says what was done.

    Returns:
        The exit code: 1 if something is left, or a study is being run by another process.
    """
    _expect(store)
    store.claim()
    counts: Counter[str] = Counter()
    running: set[str] = set()
    mended = left = 0
    with ExitStack() as locks:
        for name in _folders(store):
            try:
                locks.enter_context(FileLock(_lock_path(store, name)).acquire(timeout=0))
            except Timeout:
                running.add(name)
        for findings in _findings(store, running, counts):
            for mend in dict.fromkeys(each.mend for each in findings if each.mend):
                mend()
            for each in findings:
                mended += each.mend is not None
                left += each.mend is None
                verb = "repair" if each.mend else "not mended:"
                say(f"{each.path}: {each.what}; {verb} {each.remedy}")
    say(f"{_summary(counts)}: {mended} findings mended, {left} left")
    return 1 if left or running else 0


def _expect(store: Store) -> None:
    if not store.root.is_dir():
        raise ValueError(f"there is no store at {store.root}; correct --store")


def _summary(counts: Counter[str]) -> str:
    kinds = ("studies", "records", "stages", "checkpoints")
    return ", ".join(f"{counts[kind]} {kind}" for kind in kinds)


def _folders(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "studies").glob("*") if path.is_dir())


def _lock_path(store: Store, study: str) -> Path:
    return store.folder(study).with_name(f"{study}.lock")


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock, found out without writing anything."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing gives it back at once
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)


def _findings(store: Store, running: set[str], counts: Counter[str]) -> Iterator[list[Finding]]:
    """Findings in an order in which mending the earlier ones makes the later ones true."""
    studies: list[Study] = []
    unread: list[str] = []
    for name in _folders(store):
        if name in running:
            say(f"{store.folder(name)}: it is being run by another process, and left alone")
            continue
        yield _in_definition(store, name)
        try:
            studies.append(store.open(name))
        except ValueError:
            unread.append(name)
    faulty = False
    for study in studies:
        path = store.folder(study.id) / "ledger.jsonl"
        yield _in_ledger(path, study, ledger_lines(path, study))
        lines = ledger_lines(path, study)  # as they were mended
        faulty |= any(line.fault for line in lines)
        counts["studies"] += 1
        yield _in_checkpoints(store, path, study, lines, counts)
    if running:
        say("what is not of one study alone is checked when none is being run")
        return
    yield _left_over(store)
    yield _in_stages(store, counts)
    if faulty:
        say("what Optuna and MLflow are shown is checked when the ledgers are mended")
        return
    yield in_optuna_view(store, studies)
    yield in_mlflow(store, studies, unread)


def _in_definition(store: Store, name: str) -> list[Finding]:
    """What is wrong with the study.json of one folder."""
    folder = store.folder(name)
    path = folder / "study.json"
    if not path.exists():
        if all(file.name.startswith(".") for file in folder.rglob("*")):
            return [_removal(folder, "no study was begun in it")]
        return [Finding(path, "it is missing", f"restore it from a backup; or {ANEW}")]
    try:
        store.open(name)
        store.lookahead(name), store.metrics(name), store.environment(name)["created"]
    except (ValueError, TypeError, KeyError) as error:
        remedy = f"restore it from a backup, or move it away: {ANEW}"
        return [Finding(path, " ".join(str(error).split()), remedy)]
    if is_sealed(path.read_text()):
        return []
    mend = partial(store.migrate, name)
    return [Finding(path, "it is of an older version, without a seal", "seals it", mend)]


def _in_ledger(path: Path, study: Study, lines: list[Line]) -> list[Finding]:
    mend = partial(_rewrite, path, study)
    remedy = f"moves it to {path.name}.damaged; the same command computes its run again"
    found = [
        Finding(path, f"line {line.number}: {line.fault}", remedy, mend)
        for line in lines
        if line.fault
    ]
    unsealed = sum(not line.fault and not line.is_sealed for line in lines)
    if unsealed:
        what = f"{unsealed} lines of an older version have no seal"
        found.append(Finding(path, what, "seals them", mend))
    return found


def _rewrite(path: Path, study: Study, lost: str = "") -> None:
    """Moves faulty lines, and the one whose run is `lost`, to a file beside; seals the others."""
    aside, kept = [], []
    for line in ledger_lines(path, study):
        if line.fault or line.record is None or line.record.key == lost:
            aside.append(line.text)
        else:
            sealed = line.text if line.is_sealed else seal(unseal(line.text.decode())).encode()
            kept.append(sealed)
    beside = path.with_name(f"{path.name}.damaged")
    before = beside.read_bytes().split(b"\n")[:-1] if beside.exists() else []
    aside = [text for text in aside if text not in before]
    if aside:
        replace_atomically(beside, b"".join(text + b"\n" for text in [*before, *aside]))
    replace_atomically(path, b"".join(text + b"\n" for text in kept))


def _in_checkpoints(
    store: Store, path: Path, study: Study, lines: list[Line], counts: Counter[str]
) -> list[Finding]:
    found = []
    for line in lines:
        record = line.record
        if record is None or line.fault:
            continue
        counts["records"] += 1
        if record.role == "search" or record.status != "finished":
            continue
        checkpoint = store.checkpoint(study.id, record.key)
        fault = archive_fault(checkpoint)
        counts["checkpoints"] += not fault
        counts["records"] -= bool(fault)
        if fault:
            what = f"{fault}, but {record.key} is recorded as finished"
            remedy = f"moves it and its record aside, to {path.name}.damaged; the same command "
            mend = partial(_forget, checkpoint, path, study, record.key)
            found.append(Finding(checkpoint, what, f"{remedy}computes the run again", mend))
    return found


def _forget(checkpoint: Path, path: Path, study: Study, key: str) -> None:
    """Sets a run aside whose network is lost."""
    if checkpoint.exists():
        checkpoint.replace(checkpoint.with_name(f"{checkpoint.name}.damaged"))
    _rewrite(path, study, key)


def _removal(path: Path, what: str) -> Finding:
    return Finding(path, what, "removes it", partial(_remove, path))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    sync_folder(path.parent)


def _left_over(store: Store) -> list[Finding]:
    """What processes left that were killed; none of it is read by anything."""
    folders = (".", "stages", "studies", "studies/*", "studies/*/checkpoints")
    patterns = [f"{folder}/{name}" for folder in folders for name in (".*.partial", "*.part")]
    files = {file for p in [*patterns, "studies/*/progress/*"] for file in store.root.glob(p)}
    return [_removal(file, "it was left by a process that was killed") for file in sorted(files)]


def _in_stages(store: Store, counts: Counter[str]) -> list[Finding]:
    found = []
    paths = sorted(store.stages.glob("[!.]*"))
    folders = [path for path in paths if path.is_dir() and path.suffix != ".part"]
    with data_progress() as progress:
        for done, folder in enumerate(folders, 1):
            fault = stage_fault(folder)
            counts["stages"] += not fault
            if fault:
                remedy = "removes it; a run that needs it computes it again"
                found.append(Finding(folder, fault, remedy, partial(_remove_stage, folder)))
            progress("checking stages", done, len(folders))
    return found


def _remove_stage(folder: Path) -> None:
    with FileLock(folder.with_suffix(".lock")):
        if stage_fault(folder):
            _remove(folder)
