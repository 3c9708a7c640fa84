"""What comes from outside: bytes, JSON and text that are nearly right, or not at all."""

from __future__ import annotations

import string

from hypothesis import strategies as st

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ODD = st.sampled_from([
    "", " ", "nan", "NaN", "inf", "-Infinity", "1e999", "1e-3", "1_000", "007", "+5", "-0", "0x10",
    "٣", "１２", "true", "True", "None", "null", "1,5", "97.1%", "9" * 400, "9007199254740993",
    "\ufeff1", "\0", "\n", '"', "a\rb", "🐦", "../../etc/passwd", "/etc/passwd", "~nobody/x",
    "x" * 5000, "-1", "[]", "{}", "=1+1", "<script>",
])  # fmt: skip
"""Cells and values that some reader has misread."""

NUMBERS = FLOATS.map(repr) | st.integers().map(str)
WORDS = st.text(string.ascii_lowercase + string.digits + "_.-", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | ODD, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file of which some bytes are gone, new or others."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "drop", "repeat", "other", "as is"]))
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    junk = draw(
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"\0", b"\xff\xfe", b"\r\n", b"\n", b",", b'"', b"\xef\xbb\xbf"])
    )
    match kind:
        case "cut":
            return content[:at]
        case "flip":
            return content[:at] + junk[:1] + content[at + 1 :]
        case "insert":
            return content[:at] + junk + content[at:]
        case "drop":
            return content[:at] + content[at + len(junk) :]
        case "repeat":
            return content[:at] + content[at : at + 40] + content[at:]
        case "other":
            return draw(st.binary(max_size=60))
    return content


@st.composite
def altered(draw, value):
    """Plain data with one part taken away, added, or replaced by any JSON."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        kind = draw(st.sampled_from(["deeper", "deeper", "deeper", "drop", "add"]))
        if kind == "drop":
            return {n: v for n, v in value.items() if n != name}
        if kind == "add":
            return value | {draw(WORDS | ODD): draw(JSON)}
        return value | {name: draw(altered(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    return draw(JSON)


def one_line(error: BaseException) -> str:
    """The message of an error, which must be one line that a person can use."""
    text = str(error)
    assert text and "\n" not in text, repr(text)
    return text
