"""Results of others as CSV files, group tables and the rules that read them."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inputs import FLOATS, ODD, WORDS, damaged, one_line

from harness.groups import Evaluation
from harness.ledger import Look, Record
from harness.selection import RULES, best, best_look
from reports.leaderboard import leaderboard
from reports.results import from_csv

RUNS = st.lists(
    st.tuples(WORDS, WORDS, st.integers(0, 10**9), st.floats(0, 100), st.floats(1.5, 1e9)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "theirs.csv"


def text(rows, **style) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **style).writerows(rows)
    return buffer.getvalue()


@given(
    RUNS,
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example([("007", "1e3", 0, 0.1 + 0.2, 91.30000000000001)], "", "\n", csv.QUOTE_MINIMAL)
def test_a_table_gives_the_very_numbers_that_are_in_it(file, runs, mark, end, quoting):
    head = [("dataset", "method", "seed", "acc", "other")]
    content = mark + text([*head, *runs], lineterminator=end, quoting=quoting)
    file.write_bytes(content.encode())
    read = from_csv(file)
    for column, at in (("dataset", 0), ("method", 1), ("seed", 2), ("other", 4)):
        assert read[column].tolist() == [run[at] for run in runs]
    accuracies = [run[3] for run in runs]
    share = max(accuracies) <= 1 and max(accuracies) > 0
    assert read["acc"].tolist() == [100 * each if share else each for each in accuracies]
    long = [("dataset", "method", "seed", "metric", "value")]
    long += [(*run[:3], name, run[at]) for run in runs for name, at in (("acc", 3), ("other", 4))]
    file.write_bytes(text(long).encode())
    key = ["dataset", "method", "seed", "acc", "other"]
    assert sorted(from_csv(file)[key].values.tolist()) == sorted(read[key].values.tolist())


WHOLE = (
    b"dataset,ratio,method,seed,unbiased,worst_group,note,status\n"
    b"cells,1,a,0,80.5,60,x,finished\ncells,1,b,1,81,61,,failed\n"
)
CELL = FLOATS.map(repr) | ODD | WORDS


@given(
    damaged(WHOLE)
    | st.lists(
        st.lists(CELL | st.sampled_from(["dataset", "method", "seed", "primary"]), max_size=6),
        max_size=4,
    ).map(
        lambda rows: text([["dataset", "method", "seed", "acc"], *rows]).encode("utf-8", "replace")
    )
)
@example(b"dataset,method,seed,acc\nextra,d,m,0,5\n")
@example(b"dataset,method,seed,acc\nd,m,0\n")
@example(b"dataset,method,seed,acc,acc \nd,m,0,5,6\n")
@example(b"dataset,method,seed,acc,acc\nd,m,0,5,6\n")
@example(b"dataset,method,seed,acc\n")
@example(b"dataset,method,seed,primary\nd,m,0,5\n")
@example(b"dataset,method,seed,acc\nd,m,9007199254740993,5\n")
@example(b"dataset,method,seed,acc\nd,m,0,True\n")
@example(b"dataset,method,seed,acc\nd,m,0,1e999\n")
@example(b"dataset,method,seed,acc,status\nd,m,0,5,good\n")
@example(b"dataset,method,seed,metric,value\nd,m,0,seed,5\n")
@example(b"dataset,method,seed,metric,value\nd,m,0,,5\n")
@example(b"dataset,method,seed,acc\nd,m,0," + b"9" * 200_000 + b"\n")
def test_any_file_is_read_in_full_or_refused_in_a_line_that_names_it(file, content):
    file.write_bytes(content)
    try:
        runs = from_csv(file)
    except ValueError as error:
        said = one_line(error)
        assert file.name in said or said.startswith("unknown metric")
        return
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""),
                              skipinitialspace=True)
        if any(map(str.strip, row))
    ]  # fmt: skip
    header, rows = rows[0], rows[1:]
    assert {*map(len, rows)} == {len(header)}
    if not {"metric", "value"} <= {*header}:
        assert runs["method"].tolist() == [row[header.index("method")] for row in rows]
        for row, seed in zip(rows, runs["seed"], strict=True):
            typed = row[header.index("seed")]
            assert math.isnan(seed) or float(typed) == seed
    leaderboard(runs)


@st.composite
def group_tables(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    cells = shape[0] * shape[1]
    total = draw(st.lists(st.integers(0, 10**6), min_size=cells, max_size=cells))
    hits = [draw(st.integers(0, each)) for each in total]
    aligned = draw(st.lists(st.booleans(), min_size=cells, max_size=cells))
    return tuple(np.array(each).reshape(shape) for each in (hits, total, aligned))


@given(group_tables())
def test_every_metric_is_a_share_or_absent(table):
    correct, total, aligned = table
    metrics = Evaluation(correct, total, aligned).metrics()
    assert all(math.isnan(value) or 0 <= value <= 1 for value in metrics.values())
    assert math.isnan(metrics["accuracy"]) == (total.sum() == 0)
    if total.sum():
        assert metrics["worst_group_accuracy"] <= metrics["group_mean_accuracy"] + 1e-12


@given(st.lists(st.floats()))
def test_the_best_is_never_what_failed(values):
    chosen = best(values)
    finite = [value for value in values if math.isfinite(value)]
    assert (chosen is None) == (not finite)
    assert chosen is None or chosen == values.index(max(finite))


@given(st.lists(group_tables(), min_size=1, max_size=4), st.sampled_from(sorted(RULES)))
def test_no_look_has_a_higher_value_than_the_one_chosen(tables, rule):
    tables = [each for each in tables if each[0].shape == tables[0][0].shape]
    total, aligned = tables[0][1], tables[0][2].tolist()
    looks = [
        Look(step, 0.0, {s: np.minimum(each[0], total).tolist()
                         for s in ("valid_biased", "valid_unbiased")})
        for step, each in enumerate(tables)
    ]  # fmt: skip
    totals = dict.fromkeys(("valid_biased", "valid_unbiased"), total.tolist())
    record = Record("search", 0, 0, {}, "finished", totals, looks)
    values = [RULES[rule].value(record, aligned, at) for at in range(len(looks))]
    try:
        chosen = best_look(record, rule, aligned)
    except ValueError as error:
        one_line(error)
        assert not any(map(math.isfinite, values))
        return
    assert values[chosen] == np.nanmax(values)
