"""CSV files from elsewhere, read cell by cell as text: nothing is guessed, dropped or shifted."""

import csv
from pathlib import Path
from typing import NamedTuple

from harness.space import one_line


class Columns(NamedTuple):
    """The cells of a CSV file.

    Attributes:
        cells: Column name -> its cells from top to bottom, as they stand in the file.
        lines: The line of the file on which each row ends.
    """

    cells: dict[str, list[str]]
    lines: list[int]


def read_columns(path: Path) -> Columns:
    """Reads a UTF-8 file of comma-separated values whose first row names the columns.

    Empty lines are skipped, and columns without a name, as pandas writes its index.

    Raises:
        ValueError: It cannot be read, names a column twice, or has a row that is too short or long.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {one_line(error)}") from None
    if not rows:
        raise ValueError(f"cannot read {path}: it is empty")
    header = [name.strip() for name in rows.pop(0)[1]]
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]}: rename or delete one")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path} line {line} has {len(row)} fields, not {len(header)}: quote a field "
                "that holds a comma"
            )
    cells = {name: [row[at] for _, row in rows] for at, name in enumerate(header) if name}
    return Columns(cells, [line for line, _ in rows])
