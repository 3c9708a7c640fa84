"""What holds for every registered method. A new method file is tested by being there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import commands, registry
from harness.compose import Choice, compose
from harness.conformance import Conformance
from harness.datasets import FAMILIES
from harness.presets import PRESETS
from harness.space import build, flatten, parameters

NAMES = registry.names()
EveryMethod = pytest.mark.parametrize("name", NAMES)


def test_there_are_methods() -> None:
    assert {"dcwp", "erm"} <= set(NAMES)


@EveryMethod
def test_is_a_frozen_dataclass_with_documented_hyperparameters(name: str) -> None:
    method = registry.load(name)
    assert method.name == name
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method().anything = 1
    assert registry.summary(method).endswith(".")
    undocumented = [p.name for p in parameters(method).values() if not p.doc]
    assert not undocumented


@EveryMethod
def test_defaults_build_and_round_trip(name: str) -> None:
    method = registry.load(name)
    defaults = flatten(method())
    assert defaults == {p.name: p.default for p in parameters(method).values()}
    assert build(method, {}) == method()
    assert flatten(build(method, {n: str(v) for n, v in defaults.items()})) == defaults


@EveryMethod
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_on_every_data_set(name: str, preset: str) -> None:
    """Settings files name hyperparameters and ranges that exist and fit, and there is a search."""
    for family in FAMILIES.values():
        if family.name in ("folder", "table"):  # which need files
            continue
        recipe = family.recipe("")
        select = "unbiased" if "valid_unbiased" in recipe.validation else "average"
        typed = Choice(
            [name], [recipe.name], [*recipe.ratios], preset=preset, device="cpu", select=select
        )
        for study in compose(typed).studies:
            assert study.space
            assert study.base.keys() == parameters(registry.load(name)).keys()
            assert study.space.keys() <= study.base.keys()


@EveryMethod
def test_conforms(name: str) -> None:
    faults = [finding for finding in Conformance(registry.load(name)).findings() if finding.fault]
    assert not faults


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_randomness", "draw all randomness from torch's global generator"),
        ("peeking", "set uses_bias_labels = True to declare that"),
        ("leaky_stage", "a stage must depend on its arguments alone"),
        ("wrong_shape", "logits of 5 images have shape (5, 256), not (5, 4)"),
        ("no_classifier", "fit() yields no classifier"),
        ("undocumented", "undocumented hyperparameters: upweight"),
    ],
)
def test_check_says_what_is_wrong_with_a_broken_method(name: str, says: str) -> None:
    method = registry.load(name, str(Path(__file__).parent / "broken_methods" / f"{name}.py"))
    faults = [finding.fault for finding in Conformance(method).findings() if finding.fault]
    assert any(says in fault for fault in faults), faults


def test_the_skeleton_conforms_and_is_never_written_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.new_method("my_method", tmp_path)
    assert commands.check("my_method", tmp_path / "my_method.py") == 0
    assert "my_method conforms" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists"):
        commands.new_method("my_method", tmp_path)
    with pytest.raises(ValueError, match="cannot name a method"):
        commands.new_method("My-Method", tmp_path)


def test_a_plugin_without_a_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Python file"):
        registry.methods_in(tmp_path / "nothing.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="defines no Method"):
        registry.methods_in(tmp_path / "empty.py")
