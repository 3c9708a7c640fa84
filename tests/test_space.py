"""Hyperparameters: names, defaults, validation, ranges."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import PositiveFloat, PositiveInt

from harness import registry, tunable
from harness.space import (
    Choice,
    Integer,
    Log,
    Range,
    Uniform,
    build,
    flatten,
    parameters,
    parse_range,
    range_from_json,
    range_to_json,
    unknown,
)


@dataclass(frozen=True)
class Inner:
    depth: int = tunable(1, "How deep.")
    width: float = tunable(1.5, "How wide.", Uniform(0.0, 2.0))


@dataclass(frozen=True)
class Training:
    steps: PositiveInt = tunable(10, "Steps.", Integer(1, 20), on_request=True)
    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-1))
    beta2: float = tunable(0.999, "Decay.")
    inner: Inner = Inner()


@dataclass(frozen=True)
class Longer(Training):
    steps: PositiveInt = tunable(99, "More steps.")


@dataclass(frozen=True)
class Toy:
    pretrain: Training = Training(beta2=0.99)
    retrain: Longer = Longer(lr=0.5, inner=Inner(depth=7))
    rule: Literal["wrong", "oracle"] = tunable("wrong", "The rule.", Choice(("wrong", "oracle")))
    rewind: bool = tunable(False, "Whether.")
    note: str = tunable("none", "Any text.")


DEFAULTS = {
    "pretrain.steps": 10,
    "pretrain.lr": 1e-3,
    "pretrain.beta2": 0.99,  # of the instance, not of the class
    "pretrain.inner.depth": 1,
    "pretrain.inner.width": 1.5,
    "retrain.steps": 99,  # of the subclass
    "retrain.lr": 0.5,
    "retrain.beta2": 0.999,
    "retrain.inner.depth": 7,  # of the instance two levels down
    "retrain.inner.width": 1.5,
    "rule": "wrong",
    "rewind": False,
    "note": "none",
}


def test_names_and_defaults() -> None:
    found = parameters(Toy)
    assert list(found) == list(DEFAULTS)
    assert {name: p.default for name, p in found.items()} == DEFAULTS
    assert flatten(Toy()) == DEFAULTS


def test_documentation_and_range_stand_on_the_field() -> None:
    found = parameters(Toy)
    assert found["pretrain.lr"].search == found["retrain.lr"].search == Log(1e-4, 1e-1)
    assert found["retrain.steps"].doc == "More steps."
    assert found["retrain.steps"].search is None  # a field defined anew has no range of old
    assert (found["pretrain.steps"].on_request, found["pretrain.lr"].on_request) == (True, False)
    assert found["pretrain.inner.width"].search == Uniform(0.0, 2.0)


def test_build_and_flatten_are_inverse() -> None:
    assert build(Toy, {}) == Toy()
    settings = DEFAULTS | {"retrain.inner.depth": 3, "pretrain.lr": 0.25, "rule": "oracle"}
    made = build(Toy, settings)
    assert made.retrain.inner.depth == 3 and made.pretrain.lr == 0.25
    assert isinstance(made.retrain, Longer)
    assert flatten(made) == settings
    assert build(Toy, flatten(made)) == made
    only = build(Toy, {"retrain.steps": 4})
    assert flatten(only) == DEFAULTS | {"retrain.steps": 4}


def test_text_becomes_what_the_field_is() -> None:
    typed = {"pretrain.steps": "12", "pretrain.lr": "1e-2", "rewind": "true", "note": "7"}
    made = build(Toy, typed)
    values = (made.pretrain.steps, made.pretrain.lr, made.rewind, made.note)
    assert values == (12, 0.01, True, "7")
    assert [type(value) for value in values] == [int, float, bool, str]
    assert type(build(Toy, {"pretrain.lr": 1}).pretrain.lr) is float  # one spelling per number


@pytest.mark.parametrize(
    ("name", "near"),
    [("pretrain.lrr", "pretrain.lr"), ("retrain.step", "retrain.steps"), ("rulle", "rule")],
)
def test_unknown_name_is_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(Toy, {name: 1})
    text = str(caught.value)
    assert text.startswith(f"unknown hyperparameter '{name}'. Did you mean '{near}'? Available: ")
    assert "\n" not in text and "pretrain.inner.depth" in text


def test_a_group_is_no_hyperparameter() -> None:
    with pytest.raises(ValueError, match="unknown hyperparameter 'pretrain'"):
        build(Toy, {"pretrain": {}})


def test_nothing_near_is_suggested_for_nonsense() -> None:
    assert unknown("method", "qqqq", ["erm", "dcwp"]) == (
        "unknown method 'qqqq'. Available: dcwp, erm."
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("pretrain.steps", "0", "greater than 0"),
        ("pretrain.steps", "2.5", "valid integer"),
        ("pretrain.steps", "many", "valid integer"),
        ("retrain.lr", "-1", "greater than 0"),
        ("retrain.lr", "nan", "greater than 0"),
        ("retrain.inner.depth", "x", "valid integer"),
        ("rule", "rihgt", "'wrong' or 'oracle'"),
        ("rewind", "perhaps", "valid boolean"),
        ("note", 3, "valid string"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(name: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(Toy, {name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}={value!r}: ")
    assert reason in text and "\n" not in text


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        build(Toy, {"pretrain.steps": 0, "rule": "x"})
    assert str(caught.value).count(";") == 1
    assert "pretrain.steps=0" in str(caught.value) and "rule='x'" in str(caught.value)


# Ranges


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("0.1:0.5", Uniform(0.1, 0.5)),
        ("-1:1", Uniform(-1.0, 1.0)),
        ("log:1e-4:1e-1", Log(1e-4, 1e-1)),
        ("int:1:8", Integer(1, 8)),
        ("a,b", Choice(("a", "b"))),
        ("1,2.5,true,x", Choice((1, 2.5, True, "x"))),
        ("0.5", Choice((0.5,))),
    ],
)
def test_parse_range(text: str, search: Range) -> None:
    parsed = parse_range(text)
    assert parsed == search
    if isinstance(parsed, Choice) and isinstance(search, Choice):
        assert [type(value) for value in parsed.values] == [type(v) for v in search.values]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write low:high"),
        ("1:2:3", "write low:high"),
        ("log:1", "log"),
        ("log:1:2:3", "write low:high"),
        ("a:b", "could not convert"),
        ("int:1.5:3", "invalid literal"),
        ("2:1", "low < high"),
        ("1:1", "low < high"),
        ("0:inf", "finite"),
        ("nan:1", "finite"),
        ("log:0:1", "start above 0"),
        ("log:-1:1", "start above 0"),
    ],
)
def test_parse_range_refuses(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_range(text)
    message = str(caught.value)
    assert message.startswith(f"cannot read the range {text!r}: ")
    assert reason in message and "\n" not in message


RANGES: list[Range] = [
    Uniform(0.1, 0.5),
    Uniform(0, 1),
    Log(1e-10, 1e-6),
    Integer(-2, 5),
    Choice((1, 1.0, True, "a")),
]


@pytest.mark.parametrize("search", RANGES, ids=str)
def test_ranges_survive_json(search: Range) -> None:
    data = json.loads(json.dumps(range_to_json(search)))
    read = range_from_json(data)
    assert read == search
    assert range_to_json(read) == range_to_json(search)  # a study's id is made of this
    if isinstance(read, Choice) and isinstance(search, Choice):
        assert [type(value) for value in read.values] == [type(v) for v in search.values]


def test_kind_of_range_may_be_left_out() -> None:
    assert range_from_json({"low": 1, "high": 2}) == Uniform(1.0, 2.0)
    assert range_from_json({"values": ["a", 2]}) == Choice(("a", 2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"kind": "logg", "low": 1, "high": 2}, "unknown kind of range 'logg'. Did you mean 'log'"),
        ({"kind": "log", "low": 0, "high": 2}, "start above 0"),
        ({"low": 2, "high": 1}, "low < high"),
        ({"low": 1}, "high"),
        ({"low": "x", "high": 2}, "low"),
        ({"values": []}, "at least one value"),
        ({"kind": "integer", "low": 1.5, "high": 2}, "low"),
        ({"low": 1, "high": 2, "log": True}, "unknown part of a uniform range 'log'"),
    ],
)
def test_range_from_json_refuses(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        range_from_json(data)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("search", RANGES, ids=str)
def test_grid_lies_in_the_range(search: Range) -> None:
    points = search.grid()
    assert len(points) >= 2 or isinstance(search, Choice)
    for point in points:
        if isinstance(search, Choice):
            assert point in search.values
        else:
            assert search.low <= float(point) <= search.high


def test_grid_points() -> None:
    assert Uniform(0.0, 1.0).grid() == (0.0, 0.5, 1.0)
    assert Log(1e-4, 1.0).grid() == (1e-4, pytest.approx(1e-2), 1.0)
    assert Integer(1, 4).grid() == (1, 2, 4)
    assert Integer(1, 2).grid() == (1, 2)
    assert all(type(point) is int for point in Integer(1, 4).grid())


# Spaces of registered methods


def space_of(method: str, dataset: str) -> dict[str, Range]:
    return registry.search_space(registry.load(method), dataset)


def test_space_overrides_by_data_set() -> None:
    """The authors' range on CIFAR-10-C, and that of the field elsewhere."""
    assert space_of("dcwp", "cifar10c")["prune.sparsity_weight"] == Log(1e-10, 1e-7)
    assert space_of("dcwp", "cmnist")["prune.sparsity_weight"] == Log(1e-10, 1e-6)
    other = space_of("dcwp", "cmnist").keys()
    assert space_of("dcwp", "cifar10c").keys() == other


def test_what_is_upstream_of_a_shared_stage_is_searched_only_on_request() -> None:
    space = space_of("dcwp", "cmnist")
    assert not [name for name in space if name.startswith(("pretrain.", "mining."))]
    assert {"prune.lr", "retrain.lr", "contrastive.temperature"} <= space.keys()
    assert {"training.lr", "training.weight_decay"} == registry.search_space(
        registry.load("erm"), "cmnist"
    ).keys()


@pytest.mark.parametrize(("ratio", "upweight"), [(0.5, 80), (1, 50), (2, 30), (5, 10), (0.6, 80)])
def test_dcwp_presets_take_the_upweight_of_the_nearest_ratio(ratio: float, upweight: int) -> None:
    for preset in ("paper", "quick"):
        settings = registry.preset_settings("dcwp", preset, "cmnist", ratio)
        assert settings["retrain.upweight"] == upweight
        assert "prune.upweight" not in settings  # the authors' code keeps 80 there


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="unknown method 'dcwpp'. Did you mean 'dcwp'?"):
        registry.load("dcwpp")


def test_learning_rates_of_erm_are_validated() -> None:
    erm = registry.load("erm")
    for name, value in (("training.lr", 0), ("training.lr", math.nan),
                        ("training.weight_decay", -1.0)):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            build(erm, {name: value})
