"""Values and ranges as typed, and space files."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import FLOATS, JSON, ODD, WORDS, altered, damaged, one_line

from harness import registry
from harness.compose import Choice, _read_space, compose
from harness.space import Choice as Values
from harness.space import (
    Integer,
    Log,
    Uniform,
    build,
    flatten,
    parse_range,
    range_from_json,
    range_to_json,
)

NUMBER = FLOATS.map(repr) | st.integers().map(str) | ODD | st.text(max_size=4)
SPACE = {
    "lr": {"kind": "log", "low": 1e-4, "high": 1e-1},
    "training": {"steps": {"kind": "integer", "low": 1, "high": 10}},
    "arch": {"values": ["cnn", 1, 2.5, True]},
}


@dataclass(frozen=True)
class Toy:
    rate: float = 1.0
    steps: int = 1
    on: bool = False
    name: str = "x"


@given(FLOATS, st.integers(-(2**63) + 1, 2**63 - 1), st.booleans(), st.text(max_size=9))
def test_a_typed_value_comes_back_as_it_is(rate, steps, on, name):
    typed = {"rate": repr(rate), "steps": str(steps), "on": str(on), "name": name}
    read = flatten(build(Toy, typed))
    assert read == {"rate": rate, "steps": steps, "on": on, "name": name}
    assert math.copysign(1, read["rate"]) == math.copysign(1, rate)


@given(st.sampled_from(["rate", "steps"]), NUMBER)
@example("rate", "inf")
@example("rate", "nan")
@example("steps", "9" * 400)
def test_a_number_is_read_as_python_reads_it_or_refused(field, text):
    try:
        value = getattr(build(Toy, {field: text}), field)
    except ValueError as error:
        assert field in one_line(error)
        return
    assert math.isfinite(value) and value == (float if field == "rate" else _whole)(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        whole, _, rest = text.partition(".")  # "1.0"
        assert not rest.strip("0 ")
        return int(whole)


@given(st.lists(FLOATS, min_size=2, max_size=2), st.sampled_from(["", "log:"]))
def test_a_range_holds_the_bounds_that_were_typed(bounds, kind):
    try:
        read = parse_range(f"{kind}{bounds[0]!r}:{bounds[1]!r}")
    except ValueError as error:
        one_line(error)
        low, high = bounds
        assert not low < high or (kind and low <= 0) or max(map(abs, bounds)) > 2**53
        return
    assert read == (Log if kind else Uniform)(*bounds)
    assert range_from_json(json.loads(json.dumps(range_to_json(read)))) == read


@given(
    st.lists(NUMBER, min_size=1, max_size=3).map(":".join)
    | st.lists(NUMBER, min_size=2, max_size=2).map(lambda two: "int:" + ":".join(two))
    | st.lists(NUMBER, min_size=1, max_size=4).map(",".join)
    | st.text(max_size=9)
)
@example("int:0:1" + "0" * 400)
@example("1e999,2")
@example("-1e308:1e308")
def test_any_range_is_refused_in_a_line_or_survives_its_file(text):
    try:
        read = parse_range(text)
    except ValueError as error:
        one_line(error)
        return
    plain = json.loads(json.dumps(range_to_json(read), allow_nan=False))
    again = range_from_json(plain)
    assert again == read and repr(again) == repr(read)
    match read:
        case Values(values):
            for value, typed in zip(values, text.split(","), strict=True):
                if isinstance(value, bool):
                    assert typed.lower() == str(value).lower()
                else:
                    assert type(value)(typed) == value
        case Integer(low, high):
            assert (low, high) == tuple(map(int, text.split(":")[1:]))
        case Uniform(low, high) | Log(low, high):
            assert math.isfinite(high - low)


@given(altered(range_to_json(Integer(1, 3))) | altered(range_to_json(Values((1, "a", True)))))
@example({"values": "abc"})
@example({"kind": "uniform", "low": True, "high": "2"})
@example({"kind": "integer", "low": 0, "high": 10**400})
def test_a_range_in_a_file_is_read_literally_or_refused(data):
    if not isinstance(data, dict):
        return
    try:
        read = range_from_json(data)
    except ValueError as error:
        one_line(error)
        return
    held = range_to_json(read)
    for name in held.keys() & data.keys() - {"kind"}:
        given = list(data[name]) if isinstance(data[name], list | tuple) else data[name]
        assert (list(held[name]) if name == "values" else held[name]) == given
        assert name != "values" or [*map(type, held[name])] == [*map(type, given)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("space") / "space.toml"


def toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(n)} = {toml(v)}" for n, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


TEXT = b'lr = {kind = "log", low = 1e-4, high = 1e-1}\n[training.steps]\nlow = 1\nhigh = 2.5\n'


@given(
    damaged(TEXT)
    | altered(SPACE).map(lambda data: "\n".join(
        f"{json.dumps(n)} = {toml(v)}" for n, v in data.items()) if isinstance(data, dict) else ""
    ).map(lambda text: text.encode("utf-8", "replace"))
)  # fmt: skip
@example(b"\xff\xfe")
@example(b"a = " + b"[" * 20000)
@example(b'"a.b" = {low = 1, high = 2}\n[a]\nb = {low = 3, high = 4}\n')
@example(b"a = {low = nan, high = inf}\n")
@example(b"a = {values = 1979-05-27}\n")
def test_any_space_file_is_read_or_refused_in_a_line_that_names_it(file, content):
    file.write_bytes(content)
    try:
        ranges = _read_space(file)
    except ValueError as error:
        assert str(file) in one_line(error)
        return
    for search in ranges.values():
        assert range_from_json(json.loads(json.dumps(range_to_json(search)))) == search


@given(
    st.lists(st.tuples(st.sampled_from(["lr", "training.steps", "training", "x"]) | WORDS, NUMBER)),
    st.lists(st.sampled_from(["lr", "training.lr", "x"]) | ODD, max_size=2),
    st.lists(NUMBER | JSON.map(str), max_size=2),
    st.sampled_from([1, 2, 1000, 1001, 10**15]),
)
@example([], [], [], 10**15)
def test_any_choice_composes_or_is_refused_in_a_line(sets, fixed, searches, seeds):
    choice = Choice(
        ["erm"], ["synthetic"], [], set=[f"{n}={v}" for n, v in sets], fix=fixed,
        search=[f"lr={each}" for each in searches], search_seeds=seeds, device="cpu",
        preset="quick",
    )  # fmt: skip
    try:
        (study,) = compose(choice).studies
    except ValueError as error:
        one_line(error)
        return
    assert len(study.search_seeds) == seeds <= 1000
    for name, typed in dict(sets).items():
        value = study.base[name]
        assert isinstance(value, str | bool) or float(typed) == value
    json.dumps(study.to_json(), allow_nan=False)


def test_what_is_no_python_is_no_plugin(tmp_path):
    for number, content in enumerate((b"\x80\x02", b"def f(:\n", b"a\0b", b"(" * 5000)):
        path = tmp_path / f"no_plugin_{number}.py"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path} is not Python: ")) as error:
            registry.methods_in(path)
        one_line(error.value)


PLUGIN = b"from harness.method import Method\nclass M(Method):\n    name = 'm'\n"


def test_half_a_plugin_is_forgotten(tmp_path):
    path = tmp_path / "half_a_plugin.py"
    path.write_bytes(PLUGIN + b"1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            registry.methods_in(path)


@given(damaged(b"class A:\n    x = 1\n"))
def test_any_plugin_file_is_refused_in_a_line(file, content):
    path = file.with_name("anything.py")
    path.write_bytes(content)
    try:
        compile(content, "", "exec")
    except (SyntaxError, ValueError):
        with pytest.raises(ValueError) as error:
            registry.methods_in(path)
        assert str(path) in one_line(error.value)
