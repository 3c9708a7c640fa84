"""Sections as Markdown, LaTeX and JSON: the same sentences and cells in every format."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pandas as pd

from reports.section import Section

BLANK = ("", "–")
"""Cells that say there is nothing to say."""

_NUMBER = re.compile(r"[<>≤≥≈]?\s?[-+−]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?(?![\w.])")
_LATIN_EXTENDED_B = 0x180
_OGONEK = "\u0328"
"""The accent that LaTeX cannot set without a package for fonts."""
_LONG = 60
"""Characters from which on a column of text is broken into lines."""


def chapters(sections: Sequence[Section]) -> Iterator[tuple[str, list[Section]]]:
    """Each chapter with its sections, in the order given."""
    for chapter, members in groupby(sections, lambda section: section.chapter):
        yield chapter, list(members)


def rows(table: pd.DataFrame) -> Iterable[tuple[str, ...]]:
    """The cells of a table, row by row."""
    return table.itertuples(index=False, name=None)


def numeric(table: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers: all cells begin with one ("86.2 ± 2.1", "3 of 5") or are blank.

    Such columns are set flush right, and the page sorts them by that number.
    """
    filled = [[cell for cell in column if cell not in BLANK] for _, column in table.items()]
    return [bool(cells) and all(map(_NUMBER.match, cells)) for cells in filled]


def markdown(sections: Sequence[Section]) -> str:
    """Headings, notes and pipe tables; whatever a cell holds is shown as plain text."""
    blocks = []
    for chapter, members in chapters(sections):
        blocks.append(f"# {_plain(chapter)}")
        for section in members:
            blocks += [f"## {_plain(section.title)}", *map(_plain, section.notes)]
            if section.figure:
                blocks.append("*The figure is on the HTML page.*")
            if len(section.table):
                blocks.append(_pipe_table(section.table))
    return "\n\n".join(blocks) + "\n"


def latex(sections: Sequence[Section]) -> str:
    r"""A `table` environment per section, shrunk to the line where it is wider.

    It needs the packages booktabs and graphicx. Sections without a table become paragraphs of their
    notes. Letters and signs that pdflatex does not know are written as code points: "[U+4E2D]".
    """
    parts = [_table(s) if len(s.table) else _paragraph(s) for s in sections]
    return "\n".join(["% needs \\usepackage{booktabs,graphicx}", *parts])


def json_text(sections: Sequence[Section], runs: pd.DataFrame) -> str:
    """All there is for programs: the tidy frame as records, and every table as columns and rows.

    Unknown and infinite numbers are null, keys are sorted, and each record has its own line.
    """
    known = runs.notna() & ~runs.isin([math.inf, -math.inf])
    records = runs.astype(object).where(known, None).to_dict("records")
    tables = [
        {
            "chapter": section.chapter,
            "title": section.title,
            "key": section.key,
            "notes": section.notes,
            "columns": list(section.table.columns),
            "rows": list(rows(section.table)),
        }
        for section in sections
    ]
    return f'{{"runs": {_json_lines(records)},\n"sections": {_json_lines(tables)}}}\n'


def _json_lines(items: Sequence[object]) -> str:
    lines = [json.dumps(i, sort_keys=True, ensure_ascii=False, allow_nan=False) for i in items]
    return "[\n" + ",\n".join(lines) + "\n]"


def _plain(text: str) -> str:
    r"""One line that Markdown shows as it is; underscores within words need no backslash."""
    return re.sub(r"[\\|<&`*~[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _line(text))


def _pipe_table(table: pd.DataFrame) -> str:
    rule = " | ".join("---:" if number else "---" for number in numeric(table))
    header, *body = (
        " | ".join(map(_plain, cells)) for cells in [tuple(table.columns), *rows(table)]
    )
    return "\n".join(f"| {line} |" for line in (header, rule, *body))


def _table(section: Section) -> str:
    table = section.table
    columns = zip(numeric(table), table.items(), strict=True)
    kinds = "".join("r" if number else _text_column(cells) for number, (_, cells) in columns)
    body = [" & ".join(map(_tex, cells)) + r" \\" for cells in rows(table)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(section.title)}}}",
        rf"\label{{tab:{section.key}}}",
        r"\smallskip\footnotesize",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
        r"\toprule",
        " & ".join(map(_tex, table.columns)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if section.notes:
        lines += ["", rf"{{\smallskip\raggedright {_tex(' '.join(section.notes))}\par}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _text_column(cells: pd.Series[str]) -> str:
    return r"p{0.5\linewidth}" if max(map(len, cells)) > _LONG else "l"


def _paragraph(section: Section) -> str:
    return rf"\paragraph{{{_tex(section.title)}}} {_tex(' '.join(section.notes))}" + "\n"


def _tex(text: str) -> str:
    """One line that pdflatex sets as it is."""
    with_minus = re.sub(r"(?<!\S)-(?=\d)", "−", unicodedata.normalize("NFC", _line(text)))
    return re.sub("-(?=-)", "-{}", with_minus.translate(_SIGNS))  # -- would become a dash


class _Signs(dict[int, str]):
    """What pdflatex reads for a character."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFD", chr(code))
        known = code < _LATIN_EXTENDED_B and parts[0].isascii() and parts[0].isprintable()
        self[code] = chr(code) if known and _OGONEK not in parts else f"{{[}}U+{code:04X}]"
        return self[code]


_SIGNS = _Signs(
    str.maketrans(
        {sign: f"\\{sign}" for sign in "{}$&#_%"}
        | {sign: f"{{{sign}}}" for sign in "[*`"}  # else options of the \\ before, or quotes
        | {letter: letter for letter in "ßæœøłÆŒØŁ"}
        | {
            "\\": r"\textbackslash{}",
            "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}",
            "<": r"\textless{}",
            ">": r"\textgreater{}",
            "|": r"\textbar{}",
            '"': "''",
            "–": r"\textendash{}",
            "—": r"\textemdash{}",
            "…": r"\ldots{}",
            "’": "'",
            "“": "``",
            "”": "''",
            "−": "$-$",
            "±": r"$\pm$",
            "×": r"$\times$",
            "·": r"$\cdot$",
            "≤": r"$\le$",
            "≥": r"$\ge$",
            "≈": r"$\approx$",
            "→": r"$\to$",
            "∞": r"$\infty$",
            "°": r"$^\circ$",
            "²": "$^2$",
            "³": "$^3$",
            "µ": r"$\mu$",
            "α": r"$\alpha$",
            "χ": r"$\chi$",
            "Δ": r"$\Delta$",
        }
    )
)


def _line(text: str) -> str:
    return " ".join(text.split())
