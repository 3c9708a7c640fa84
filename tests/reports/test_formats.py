"""Markdown, LaTeX and JSON show the same cells, whatever they hold."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from reports.formats import json_text, latex, markdown, numeric
from reports.section import Section

RANKING = Section(
    "Leaderboard",
    "cmnist, 1 % conflicting",
    pd.DataFrame(
        {
            "#": ["1", "2"],
            "method": ["dcwp", "group_dro"],
            "unbiased": ["86.2 ± 2.1", "–"],
            "n": ["5", "3 of 5"],
        }
    ),
    ("Ranked by unbiased accuracy.", "± is one standard deviation."),
    key="leaderboard-1",
)
CLAIM = Section("Statistics", "Ranks", notes=("χ² = 3.1, p < 0.05.",), figure="<svg/>", key="ranks")

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b \\| c \\",
    "two\nlines",
    "__init__ _x_ a_b *y* **z** `q` ~~s~~",
    "[click](javascript:alert(1)) ![i](x) [l]",
    "&lt; & &amp; 100% $5 #1 ^2 ~3 {4} \\textbf{5}",
    "[0.1, 0.2]",
    "*",
    "-- --- --set x=-1 -1.5 “q” ``r'' ?` !`",
    "Šimon Müller Łukasz Ærø ç ő 0.1–0.5 — … ≤ ≥ ≈ × ± − ° ² ³ µ χ α Δ → ∞ ·",
    "中 ą þ 😀 \u200b e\u0301 \x00",
]


def test_markdown_in_full() -> None:
    more = RANKING._replace(title="cmnist, 5 % conflicting", notes=())
    assert markdown([RANKING, more, CLAIM]) == (
        """\
# Leaderboard

## cmnist, 1 % conflicting

Ranked by unbiased accuracy.

± is one standard deviation.

| # | method | unbiased | n |
| ---: | --- | ---: | ---: |
| 1 | dcwp | 86.2 ± 2.1 | 5 |
| 2 | group_dro | – | 3 of 5 |

## cmnist, 5 % conflicting

| # | method | unbiased | n |
| ---: | --- | ---: | ---: |
| 1 | dcwp | 86.2 ± 2.1 | 5 |
| 2 | group_dro | – | 3 of 5 |

# Statistics

## Ranks

χ² = 3.1, p \\< 0.05.

*The figure is on the HTML page.*
"""
    )


def test_markdown_shows_every_cell_as_it_is() -> None:
    table = pd.DataFrame({"<b>": NASTY[:-1], "n": "1"})  # the last has no valid Markdown: a NUL
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(markdown([Section("C", "T", table)]))
    shown = [t for t in tokens if t.type == "inline"]
    assert {child.type for token in shown for child in token.children or []} == {"text"}
    texts = ["".join(child.content for child in t.children or []) for t in shown]
    cells = [cell for name in NASTY[:-1] for cell in (" ".join(name.split()), "1")]
    assert texts == ["C", "T", "<b>", "n", *cells]


def test_latex_in_full() -> None:
    assert latex([RANKING, CLAIM]) == (
        r"""% needs \usepackage{booktabs,graphicx}
\begin{table}
\centering
\caption{cmnist, 1 \% conflicting}
\label{tab:leaderboard-1}
\smallskip\footnotesize
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{@{}rlrr@{}}
\toprule
\# & method & unbiased & n \\
\midrule
1 & dcwp & 86.2 $\pm$ 2.1 & 5 \\
2 & group\_dro & \textendash{} & 3 of 5 \\
\bottomrule
\end{tabular}}

{\smallskip\raggedright Ranked by unbiased accuracy. $\pm$ is one standard deviation.\par}
\end{table}

\paragraph{Ranks} $\chi$$^2$ = 3.1, p \textless{} 0.05.
"""
    )


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("{50% of $5 & #1_a}", r"\{50\% of \$5 \& \#1\_a\}"),
        (r"\a ~ ^", r"\textbackslash{}a \textasciitilde{} \textasciicircum{}"),
        ('<a|b> "q"', r"\textless{}a\textbar{}b\textgreater{} ''q''"),
        ("[1] *", "{[}1] {*}"),  # after \\ they would be its options
        ("--set x-1 ---", "-{}-set x-1 -{}-{}-"),
        ("-1.5 −2 x -3", "$-$1.5 $-$2 x $-$3"),
        ("1–2 ≤ 3 × 10²", r"1\textendash{}2 $\le$ 3 $\times$ 10$^2$"),
        ("é e\u0301 ß ő Ł", "é é ß ő Ł"),
        ("中 ą þ", "{[}U+4E2D] {[}U+0105] {[}U+00FE]"),
        ("two\n\n lines", "two lines"),
    ],
)
def test_latex_escapes(text: str, escaped: str) -> None:
    assert latex([Section("C", text, notes=("N",))]).endswith(f"\\paragraph{{{escaped}}} N\n")


def test_long_text_is_broken_into_lines() -> None:
    table = pd.DataFrame({"method": ["a"], "error": ["word " * 30]})
    assert r"\begin{tabular}{@{}lp{0.5\linewidth}@{}}" in latex([Section("C", "T", table)])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    nasty = pd.DataFrame({name: NASTY for name in NASTY})
    body = latex([RANKING, CLAIM, Section("C", " ".join(NASTY), nasty, tuple(NASTY), key="n")])
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-draftmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if line[:1] == "!"]


def test_latex_groups_are_balanced() -> None:
    nasty = pd.DataFrame({name: NASTY for name in NASTY})
    text = latex([Section("C", " ".join(NASTY), nasty, tuple(NASTY), key="n")])
    bare = re.sub(r"\\[\\{}$&#_%]", "", text.partition("\n")[2])  # less what is escaped
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert bare.count("&") == (len(NASTY) + 1) * (len(NASTY) - 1)
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["86.2 ± 2.1", "–", ""], True),
        (["1", "10"], True),
        (["3 of 5", "5"], True),
        (["80.1 to 82.0"], True),
        (["< 0.001", "0.2", "1e-05", "1.5e-7"], True),
        (["−3.1", "+2.0", "-1"], True),
        (["1,234", "12"], True),
        (["1 %", "0.5%"], True),
        (["–", ""], False),
        ([], False),
        (["dcwp", "1"], False),
        (["3f9a21bc", "12"], False),
        (["1.2.3"], False),
        (["2x"], False),
    ],
    ids=str,
)
def test_which_columns_hold_numbers(cells: list[str], expected: bool) -> None:
    assert numeric(pd.DataFrame({"x": cells, "y": ["a"] * len(cells)})) == [expected, False]


def test_columns_of_one_name_are_told_apart() -> None:
    table = pd.DataFrame([["a", "1"]], columns=["x", "x"])
    assert numeric(table) == [False, True]
    assert "| x | x |\n| --- | ---: |\n| a | 1 |" in markdown([Section("C", "T", table)])


def test_json_round_trip() -> None:
    runs = pd.DataFrame(
        {
            "method": ["dcwp", "érm"],
            "seed": [1, 2],
            "collapsed": [False, True],
            "primary": [0.1 + 0.2, math.nan],
            "seconds": [math.inf, 1.0],
        }
    )
    text = json_text([RANKING, CLAIM], runs)
    read = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    assert read["runs"] == [
        {"method": "dcwp", "seed": 1, "collapsed": False, "primary": 0.1 + 0.2, "seconds": None},
        {"method": "érm", "seed": 2, "collapsed": True, "primary": None, "seconds": 1.0},
    ]
    assert [type(value) for value in read["runs"][0].values()][:2] == [bool, str]  # sorted keys
    assert read["sections"][0] == {
        "chapter": "Leaderboard",
        "title": "cmnist, 1 % conflicting",
        "key": "leaderboard-1",
        "notes": ["Ranked by unbiased accuracy.", "± is one standard deviation."],
        "columns": ["#", "method", "unbiased", "n"],
        "rows": [["1", "dcwp", "86.2 ± 2.1", "5"], ["2", "group_dro", "–", "3 of 5"]],
    }
    assert read["sections"][1]["rows"] == [] and len(read["sections"]) == 2
    assert json_text([RANKING, CLAIM], runs[runs.columns[::-1]]) == text
    assert len([line for line in text.splitlines() if '"seed"' in line]) == len(runs)


def test_nothing_to_report() -> None:
    assert markdown([]) == "\n"
    assert latex([]) == "% needs \\usepackage{booktabs,graphicx}"
    assert json.loads(json_text([], pd.DataFrame())) == {"runs": [], "sections": []}
