"""What no input may bring about: code that runs, secrets that get out, doors that stand open.

The rules S of ruff hold the sources to what flake8-bandit knows; the tests here add what it lacks.
Pickles and archives from outside are tested in datasets/test_sources.py, the escaping of the page
in reports/test_page.py.
"""

from __future__ import annotations

import ast
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from harness import registry, tracking
from harness.datasets import fetch, store
from harness.disk import seal, sha256, unseal
from harness.nets import Backbone, build_net
from harness.stages import StageStore, stage_key
from harness.study import Store
from reports import formats
from reports.page import html
from reports.section import Section
from tests.test_architecture import ROOT, SOURCES, imports

CANARY = "canary-c0ffee-d15ea5e"
"""Stands for every secret; also tells the processes of a sweep from all others."""
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "MLFLOW_TRACKING_USERNAME": CANARY,
    "MLFLOW_TRACKING_PASSWORD": CANARY,
    "MLFLOW_TRACKING_TOKEN": CANARY,
    "HF_TOKEN": CANARY,
    "DATABASE_URL": f"postgresql://user:{CANARY}@127.0.0.1/db",
}
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}

# Sources


def calls(path: Path) -> Iterator[tuple[str, dict[str | None, str], str]]:
    """Name, keyword arguments and place of every call in a file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call):
            said = {each.arg: ast.unparse(each.value) for each in node.keywords}
            yield ast.unparse(node.func), said, f"{path}:{node.lineno}"


def faults(path: Path) -> list[str]:
    """What a source file does that ruff's rules S let pass."""
    found = []
    for name in imports(path):
        package = name.split(".")[0]
        unpickles = package in ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle")
        # The official MNIST arrays are pickles; the unpickler that reads them admits only arrays.
        admitted = name == "pickle.UnpicklingError" or path == Path("harness/datasets/fetch.py")
        if unpickles and not admitted:
            found.append(f"{path}: imports {name}")
    for name, said, place in calls(path):
        if name in ("eval", "exec", "compile", "__import__") or re.search(
            r"\.extract(all)?$", name
        ):
            found.append(f"{place}: calls {name}")
        if name == "torch.load" and said.get("weights_only") != "True":
            found.append(f"{place}: reads more than weights")
        if "allow_pickle" in said and said["allow_pickle"] != "False":
            found.append(f"{place}: reads pickled arrays")
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.match(r"(http|ftp)://(?!127\.0\.0\.1|www\.w3\.org)", text):
            if "HOST" not in text:
                found.append(f"{path}:{node.lineno}: {text}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_sources_run_no_data_and_fetch_over_https(path: Path) -> None:
    assert faults(path) == []


def test_the_checks_of_sources_find_what_they_look_for(tmp_path: Path) -> None:
    bad = [
        "import pickle",
        "from joblib import load",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "exec(compile('1', '', 'exec'))",
        "__import__('x')",
        "archive.extractall()",
        "archive.extract(member)",
        "URL = 'http://example.org/x'",
    ]
    for number, text in enumerate(bad):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        assert faults(path), text


# Files that hold code instead of data


class Payload:
    """Pickles as a call that leaves a flag behind."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.flag),)


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """Exists as soon as code from a file has run."""
    path = tmp_path / "flag"
    yield path
    assert not path.exists()


def test_the_payload_works(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "run"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "run").exists()


def ones() -> torch.Tensor:
    return torch.ones(2)


def test_a_stage_artifact_that_holds_code_is_computed_again(tmp_path: Path, flag: Path) -> None:
    """Even when somebody has made its manifest fit."""
    stages, key = StageStore(tmp_path / "stages"), stage_key(ones, [], 0, "cpu")
    stages.fetch(key, ones, torch.device("cpu"))
    (value,) = stages.root.glob("*/value.pt")
    torch.save({"x": Payload(flag)}, value)
    manifest = value.with_name("manifest.json")
    manifest.write_text(seal(unseal(manifest.read_text()) | {"sha256": sha256(value)}))
    with pytest.warns(UserWarning, match="is computed again"):
        found = stages.fetch(key, ones, torch.device("cpu"))
    assert not found.reused and torch.equal(found.value, ones())


def test_pretrained_weights_that_hold_code_are_refused(tmp_path: Path, flag: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"conv1.weight": Payload(flag)}, path)
    with pytest.raises(ValueError, match="is not a file that") as error:
        build_net(Backbone("resnet18", str(path)), 2, (3, 64, 64))
    assert "\n" not in str(error.value)


def test_data_arrays_that_hold_code_are_refused(
    tmp_path: Path, flag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when somebody has made the manifest fit."""
    monkeypatch.setattr(store, "_OPENED", {})
    folder = store.prepare("synthetic", tmp_path, 1)
    path = folder / "train_labels.npy"
    np.save(path, np.array([Payload(flag)], dtype=object), allow_pickle=True)
    manifest = unseal((folder / store.MANIFEST).read_text())
    manifest["files"][path.name] = sha256(path)
    (folder / store.MANIFEST).write_text(seal(manifest))
    with pytest.raises(ValueError, match="(?i)pickle|object"):
        store.load("synthetic", tmp_path, 1)


# Archives and downloads


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "device"])
def test_links_and_devices_in_an_archive_are_not_followed(tmp_path: Path, kind: str) -> None:
    import tarfile

    secret = tmp_path / "secret"
    secret.write_text(CANARY)
    types = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/one")
        member.type, member.linkname = types[kind], str(secret)
        tar.addfile(member)
    assert fetch.read_archive(tmp_path / "a.tgz", ["package/one"]) == {"package/one": b""}


def test_files_larger_than_any_of_ours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip
    import io
    import zipfile

    monkeypatch.setattr(fetch, "LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("fits", bytes(1000))
        wheel.writestr("bomb", bytes(1001))
    assert len(fetch.read_archive(tmp_path / "a.whl", ["fits"])["fits"]) == 1000
    with pytest.raises(ValueError, match="refused a.whl: its member 'bomb' has 1001 bytes"):
        fetch.read_archive(tmp_path / "a.whl", ["bomb"])
    assert fetch.unzipped(gzip.compress(bytes(1000))) == bytes(1000)
    with pytest.raises(OSError, match="unpacks to more than 1000 bytes"):
        fetch.unzipped(gzip.compress(bytes(1001)))

    class Response(io.BytesIO):
        headers: dict[str, str] = {}

    monkeypatch.setattr(fetch, "_connect", lambda url: Response(bytes(1001)))
    with pytest.raises(OSError, match="refused https://a.b: it is larger than 1000 bytes"):
        fetch.download("https://a.b", lambda *_: None)


# Text that a format could take for its own

HOSTILE = [
    "a|b",
    "a\n# b",
    r"\input{/etc/passwd}",
    "$x$",
    "^^5cinput",
    "%",
    "<b>",
    "[x](javascript:1)",
    "`x",
]


def sections(text: str) -> list[Section]:
    return [Section(text, text, pd.DataFrame({text: [text], "n": ["1"]}), (text,), key="key")]


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_takes_no_text_for_a_command(text: str) -> None:
    made, plain = formats.latex(sections(text)), formats.latex(sections("plain"))
    signs = r"(?<!\\)[%$&#_^~\n]"
    assert re.findall(signs, made) == re.findall(signs, plain)
    names = r"\\([a-zA-Z]+)"
    letters = {"textbar", "textbackslash", "textasciicircum", "textless", "textgreater"}
    assert {*re.findall(names, made)} - {*re.findall(names, plain)} <= letters


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_takes_no_text_for_markup(text: str) -> None:
    from markdown_it import MarkdownIt

    def tokens(text: str) -> list[str]:
        parser = MarkdownIt("commonmark").enable("table")
        flat = parser.parse(formats.markdown(sections(text)))
        return [each.type for token in flat for each in (token, *(token.children or []))]

    assert tokens(text) == tokens("plain")


def test_a_page_shows_hostile_text_from_every_place_as_text() -> None:
    text = "</title></style><script>alert(1)</script>"
    page = html(sections(text), text, text)
    assert "alert(1)" in page and "<script>alert" not in page and page.count("</style>") == 1


# Plugins

PLUGIN = """
from pathlib import Path
Path({flag!r}).write_text("ran")
from dataclasses import dataclass
from harness import Method
from harness.nets import Backbone, build_net
@dataclass(frozen=True)
class Mine(Method):
    "Does not train."
    name = "mine"
    def fit(self, train, run):
        yield build_net(Backbone(), train.num_classes, train.image_shape)
"""


def harness(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        capture_output=True, text=True, timeout=100, cwd=ROOT, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def away() -> list[str]:
    """A tracking server that nobody runs, with a password in its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ["--tracking-uri", f"http://user:{CANARY}@127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def plugin_store(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder with a store, the plugin that has a result in it, and what was printed.

    The plugin leaves a flag beside itself when it is imported again.
    """
    folder = tmp_path_factory.mktemp("plugin")
    plugin, flag = folder / "mine.py", folder / "flag"
    plugin.write_text(PLUGIN.format(flag=str(flag)))
    done = harness(
        "train", "--method", "mine", "--plugin", str(plugin), "--dataset", "synthetic",
        "--device", "cpu", "--store", str(folder / "store"), "--data-root", str(data_root), *away(),
        env={**os.environ, **SECRETS},
    )  # fmt: skip
    assert done.returncode == 0 and flag.read_text() == "ran", done.stderr
    flag.unlink()
    (folder / "train-output").write_text(done.stdout + done.stderr)
    return folder


@pytest.mark.parametrize(
    "command", [["leaderboard", "--format", "html"], ["store", "check"], ["sync"]]
)
def test_reading_a_store_runs_no_plugin(plugin_store: Path, command: list[str]) -> None:
    done = harness(*command, "--store", str(plugin_store / "store"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (plugin_store / "flag").exists()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path whose entry points name a method, and one that we have."""
    info = tmp_path / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[harness.methods]\nmine = stranger\nerm = stranger\n")
    flag = tmp_path / "flag"
    (tmp_path / "stranger.py").write_text(PLUGIN.format(flag=str(flag)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return flag


def test_an_installed_package_runs_only_when_its_method_is_named(installed: Path) -> None:
    done = harness("methods")
    assert done.returncode == 0 and re.search(r"^ *mine ", done.stdout, re.MULTILINE)
    assert not installed.exists()
    assert registry.load("erm").__module__ == "methods.erm"
    assert not installed.exists()
    assert registry.load("mine").name == "mine"
    assert installed.exists()
    del sys.modules["stranger"]


# A sweep from outside: what it says, writes and listens on


class Process(NamedTuple):
    """One process of the sweep, as /proc shows it."""

    command: str
    listening: list[str]


def of_the_sweep() -> Iterator[Process]:
    """Processes that have the canary in their environment, with the addresses they listen on."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if CANARY.encode() not in (folder / "environ").read_bytes():
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            links = [os.readlink(file) for file in (folder / "fd").iterdir()]
        except OSError:  # it has ended
            continue
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        lines = [
            line.split()
            for family in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]
        ]
        yield Process(command, [w[1] for w in lines if w[3] == "0A" and w[9] in inodes])


class Watched(NamedTuple):
    """A sweep with secrets in its environment, and what was seen of it while it ran."""

    folder: Path
    listening: set[str]
    shared: dict[Path, int]


@pytest.fixture(scope="module")
def watched(plugin_store: Path, data_root: Path) -> Watched:
    """A sweep of another method in the plugin's store, then `harness sync` to a server away."""
    folder = plugin_store
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    environment = {**os.environ, **SECRETS, "HOME": str(folder / "home")}
    environment["TMPDIR"] = str(folder / "tmp")
    environment.pop("RAY_AUTH_TOKEN", None)
    sweep = [
        "sweep", "--method", "erm", "--dataset", "synthetic", "--ratio", "1", "--preset", "quick",
        "--device", "cpu", "--set", "training.steps=8", "--set", "training.eval_every=4",
        "--trials", "1", "--seeds", "1", "--concurrency", "1",
        "--store", str(folder / "store"), "--data-root", str(data_root),
    ]  # fmt: skip
    listening: set[str] = set()
    shared: dict[Path, int] = {}
    with (folder / "sweep-output").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *sweep],
            stdout=output, stderr=output, env=environment, cwd=ROOT,
        )  # fmt: skip
        while process.poll() is None:
            for each in of_the_sweep():
                listening |= {*each.listening}
                for name in re.findall(r"/tmp/hrn-[^/ ]+", each.command):
                    with suppress(FileNotFoundError):
                        shared[Path(name)] = stat.S_IMODE(Path(name).stat().st_mode)
            time.sleep(0.2)
    assert process.returncode == 0, (folder / "sweep-output").read_text()
    done = harness("sync", "--store", str(folder / "store"), *away(), env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (folder / "sync-output").write_text(done.stdout + done.stderr)
    return Watched(folder, listening, shared)


def test_no_secret_is_printed_or_kept(watched: Watched) -> None:
    for name in ("train-output", "sync-output"):
        assert re.search(r"tracking at http://\*+@127.0.0.1:", (watched.folder / name).read_text())
    assert "LEADERBOARD" in (watched.folder / "sweep-output").read_text()
    files = [file for file in watched.folder.rglob("*") if file.is_file()]
    assert {"mlflow.db", "ledger.jsonl", "study.json", "leaderboard.html"} <= {
        f.name for f in files
    }
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


def test_a_sweep_listens_on_the_loopback_interface_alone(watched: Watched) -> None:
    assert len(watched.listening) >= 4  # the driver, Ray's head, its workers
    assert {address.partition(":")[0] for address in watched.listening} <= LOOPBACK


def test_nobody_else_reaches_the_sockets_of_a_sweep(watched: Watched) -> None:
    """Ray gives everybody access to the folder that it is given."""
    assert watched.shared and {*watched.shared.values()} == {0o700}
    assert not [folder for folder in watched.shared if folder.exists()]


def test_a_sweep_of_another_method_runs_no_plugin(watched: Watched) -> None:
    assert not (watched.folder / "flag").exists()


def test_the_tracking_ui_is_on_the_loopback_interface_and_keeps_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody on a machine can read the command lines of its processes."""
    started: list[list[str]] = []

    def start(command: list[str], **_: object) -> None:
        started.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking, "_connect", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        tracking.serve(f"postgresql://user:{CANARY}@127.0.0.1/db", Store(tmp_path), 5000)
    (command,) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert CANARY not in " ".join(command)


def test_a_sweep_leaves_no_token_and_no_scratch_files(watched: Watched) -> None:
    assert not (watched.folder / "home/.ray").exists()
    # torch makes an empty folder for its compiler there
    assert [file for file in (watched.folder / "tmp").rglob("*") if file.is_file()] == []


def test_no_result_may_be_written_by_others(watched: Watched) -> None:
    files = [*(watched.folder / "store").rglob("*")]
    assert files and not [file for file in files if file.stat().st_mode & stat.S_IWOTH]
