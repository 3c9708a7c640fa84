"""The tidy frame: from ledgers, from anybody's files, and back."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from harness.ledger import Look, Record
from harness.study import Store
from reports.flags import flag_sections
from reports.leaderboard import leaderboard
from reports.results import CONDITIONS, from_csv, from_store, merged, metrics_of

WIDE = """dataset, method, seed, accuracy, worst
waterbirds, erm, 0, 97.1, 61.0
waterbirds, erm, 1, 96.9, 63.0
waterbirds, jtt, 0, 93.0, 86.0
"""
LONG = """dataset,method,seed,metric,value
waterbirds,erm,0,accuracy,97.1
waterbirds,erm,0,worst,61.0
waterbirds,erm,1,accuracy,96.9
waterbirds,erm,1,worst,63.0
waterbirds,jtt,0,accuracy,93.0
waterbirds,jtt,0,worst,86.0
"""


@pytest.fixture
def csv(tmp_path):
    def write(text, name="theirs.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_long_and_wide_files_say_the_same(csv):
    wide, long = from_csv(csv(WIDE)), from_csv(csv(LONG))
    pd.testing.assert_frame_equal(wide, long)
    assert [c for c in metrics_of(wide) if wide[c].notna().any()] == ["accuracy", "worst"]
    assert list(wide["primary"]) == [97.1, 96.9, 93.0] and set(wide["source"]) == {"theirs.csv"}


def test_the_metric_to_rank_by_can_be_chosen(csv):
    board = leaderboard(from_csv(csv(WIDE), "worst"))
    assert list(board["method"]) == ["jtt", "erm"]
    with pytest.raises(ValueError, match="unknown metric 'wrst'. Did you mean 'worst'"):
        from_csv(csv(WIDE), "wrst")


def test_shares_are_read_as_such(csv):
    runs = from_csv(csv("dataset,method,seed,acc,f1\nd,m,0,0.5,50\nd,m,1,1,40\n"))
    assert runs["acc"].tolist() == [50, 100] and runs["f1"].tolist() == [50, 40]


def test_columns_of_other_peoples_files_do_not_collide_with_ours(csv):
    runs = from_csv(
        csv("dataset,method,seed,n,acc,acc_std,commit\nd,m,0,3,50,1,abc\nd,m,1,4,60,1,d\n")
    )
    board = leaderboard(runs)
    assert board["n"].tolist() == [2] and board["primary"].tolist() == [55]
    assert board["acc"].tolist() == [55] and board["acc_std"].tolist() == [pytest.approx(50**0.5)]
    assert "commit" not in board


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset,seed,acc\nd,0,1\n", "has no column method; it needs dataset, method and seed"),
        ("dataset,method,seed,acc\nd,m,0,5\nd,m,1,high\n", "row 3: acc = 'high' is not a number"),
        ("dataset,method,seed,acc\nd,m,0,high\n", "has no metric"),
        ("dataset,method,seed,acc\nd,m,0,5\n,m,1,6\n", "row 3 has no dataset"),
        ("dataset,method,seed,acc\nd,m,one,5\n", "row 2: seed = 'one' is not a number"),
        ("dataset,method,seed\nd,m,0\n", "has no metric"),
        (
            "dataset,method,seed,metric,value\nd,m,0,acc,1\nd,m,1,acc,x\n",
            "acc = 'x' is not a number",
        ),
        ("", "cannot read"),
        ('dataset,method,seed,acc\nd,"m,0,5\n', "cannot read"),
    ],
)
def test_bad_files_are_one_line(csv, text, says):
    with pytest.raises(ValueError) as error:
        from_csv(csv(text))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*none.csv"):
        from_csv(tmp_path / "none.csv")


MESSY = """dataset,ratio,method,seed,unbiased,worst_group
cells,1,a,0,80,60
cells,1,a,0,81,61
cells,1,a,1,82,62
cells,1,a,2,nan,
cells,1,b,0,0,0
cells,1,b,1,70,50
cells,5,a,0,90,80
cells,5,b,0,91,inf
"""


def test_third_party_trouble_is_named_and_counted(csv):
    runs = from_csv(csv(MESSY))
    board = leaderboard(runs).set_index(["ratio", "method"])
    assert board.loc[(1, "a"), ["unbiased", "n", "runs"]].tolist() == [81, 2, 3]  # 80, 82
    assert board.loc[(1, "b"), ["unbiased", "n", "runs"]].tolist() == [70, 1, 2]
    assert np.isnan(board.loc[(5, "b"), "worst_group"])
    failures, seeds = flag_sections(runs, "leave-out")
    assert "8 runs: 1 failed, 1 suspected failure, 1 duplicate." in failures.notes[0]
    rows = failures.table.set_index("what")
    assert rows.loc["failed", ["method", "seed", "reason"]].tolist() == ["a", "2", "no unbiased"]
    assert rows.loc["suspected failure", ["method", "reason"]].tolist() == ["b", "only zeros"]
    assert rows.loc["duplicate", ["method", "seed"]].tolist() == ["a", "0"]
    assert seeds.table.values.tolist() == [["cells, 1 % conflicting", "b", "2"]]


def test_clean_results_say_that_they_were_checked(csv):
    (failures,) = flag_sections(from_csv(csv(WIDE.replace("\nwaterbirds, erm, 1", "\nx, erm, 1"))),
                                "leave-out")  # fmt: skip
    assert (
        failures.table.empty and "0 failed, 0 suspected failure, 0 duplicate" in failures.notes[0]
    )


def confirm(store: Store, make_study, hits, looks=1, **fields):
    study = make_study(base={"x": 1.0}, **fields)
    store.create(study, 1)
    total = {"valid_unbiased": [[10, 10], [10, 10]], "test": [[10, 10], [10, 10]]}
    ledger = store.ledger(study.id)
    for role, seed in (("search", 0), ("confirm", 1000)):
        ledger.append(
            Record(role, 0, seed, study.base, "finished", total,
                   [Look(n, 1.0, {"valid_unbiased": each, "test": each})
                    for n, each in enumerate(hits, 1)], metrics={"density": 0.25})
        )  # fmt: skip
    return study


def test_a_store_read_back_from_csv_is_the_same(store, make_study, tmp_path):
    confirm(store, make_study, [[[9, 8], [7, 6]]])
    runs = from_store(store)
    text = runs.to_csv(index=False)
    (tmp_path / "this store").write_text(text)
    pd.testing.assert_frame_equal(from_csv(tmp_path / "this store"), runs)
    assert runs["density"].tolist() == [0.25]


def test_one_class_predicted_is_a_collapse(store, make_study):
    confirm(store, make_study, [[[10, 10], [0, 0]]])
    confirm(store, make_study, [[[9, 0], [0, 9]]], method="fine")
    runs = from_store(store).set_index("method")
    assert runs["collapsed"].to_dict() == {"toy": True, "fine": False}
    assert runs["zero_groups"].to_dict() == {"toy": 2, "fine": 2}
    assert runs["groups"].to_dict() == {"toy": 4, "fine": 4}


def test_the_checkpoint_rule_chooses_the_look_that_is_reported(store, make_study):
    rising, falling = [[9, 9], [9, 9]], [[5, 5], [5, 5]]
    confirm(store, make_study, [rising, falling])
    assert from_store(store)["unbiased"].tolist() == [50]
    chosen = from_store(store, checkpoint="unbiased")
    assert chosen["unbiased"].tolist() == [90] and chosen["checkpoint"].tolist() == ["unbiased"]


def test_failed_confirm_runs_are_rows(store, make_study):
    study = confirm(store, make_study, [[[9, 9], [9, 9]]])
    store.ledger(study.id).append(
        Record("confirm", 0, 1001, study.base, "failed", error="toy: ValueError: no")
    )
    runs = from_store(store)
    assert runs["status"].tolist() == ["finished", "failed"]
    board = leaderboard(runs)
    assert board[["n", "runs"]].values.tolist() == [[1, 2]]


def test_ours_and_theirs_rank_together_only_under_stated_equal_conditions(store, make_study, csv):
    confirm(store, make_study, [[[9, 9], [9, 9]]])
    ours = from_store(store)
    stated = ours.assign(method="theirs", study="", unbiased=95.0, primary=95.0)
    buffer = io.StringIO()
    stated.to_csv(buffer, index=False)
    same = from_csv(csv(buffer.getvalue()))
    bare = from_csv(csv("dataset,ratio,method,seed,unbiased\ntiny,12.5,bare,0,99\n", "bare.csv"))
    board = leaderboard(merged([ours, same, bare])).set_index("method")
    assert board["rank"].to_dict() == {"theirs": 1, "toy": 2, "bare": 1}
    assert len(board[CONDITIONS].drop_duplicates()) == 2
