"""Sections as one HTML page that needs a browser and nothing else: no server, no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.formats import chapters, numeric, rows
from reports.section import Section

_SVG = "{http://www.w3.org/2000/svg}"
_DRAWS = set(
    "svg g defs symbol use path rect circle ellipse line polyline polygon text tspan title desc "
    "style clipPath mask pattern marker linearGradient radialGradient stop".split()
)
_OUTSIDE = re.compile(r"@import|url\((?!\s*[\"']?#)", re.IGNORECASE)


def html(sections: Sequence[Section], title: str, subtitle: str) -> str:
    """A page to read, sort and filter, the same bytes for the same sections.

    All text is escaped. Figures become images, in which a browser runs no script, fetches nothing
    and lets no style or id meet those of another figure. A content security policy allows the
    page's own script by its hash, and nothing from anywhere else.

    Raises:
        ValueError: A figure is not an SVG that only draws.
    """
    environment = Environment(
        loader=PackageLoader("reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rows": rows,
        "numeric": numeric,
        "partition": str.partition,  # as a method, jinja takes twice as long for the whole page
        "common_notes": _common_notes,
        "image": _image,
        "digest": _digest,
    }
    return environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        chapters=list(chapters(sections)),
        version=version("debias-harness"),
    )


def _common_notes(sections: Sequence[Section]) -> list[str]:
    """What all sections of a chapter say; the page says it once, above them."""
    first, *others = sections
    return [note for note in first.notes if others and all(note in s.notes for s in others)]


def _image(section: Section) -> str:
    """The section's figure as a data URI."""
    try:
        problem = next(_beyond_drawing(ElementTree.fromstring(section.figure)), "")  # noqa: S314 - ours
    except ElementTree.ParseError as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"the figure of section {section.key!r} must be an SVG that only draws, but has "
            f"{problem}; leave scripts, event handlers and links out"
        )
    return f"data:image/svg+xml;base64,{base64.b64encode(section.figure.encode()).decode()}"


def _beyond_drawing(root: ElementTree.Element) -> Iterator[str]:
    """What an SVG holds that could act or fetch."""
    if root.tag != f"{_SVG}svg":
        yield f"the root {root.tag!r}"
    for element in root.iter():
        if element.tag.removeprefix(_SVG) not in _DRAWS or not element.tag.startswith(_SVG):
            yield f"the element {element.tag.removeprefix(_SVG)!r}"
        if element.tag == f"{_SVG}style" and _OUTSIDE.search(element.text or ""):
            yield "a style that fetches"
        for name, value in element.attrib.items():
            local = name.rpartition("}")[2].lower()
            if local.startswith("on"):
                yield f"the event handler {local!r}"
            if local == "href" and not value.startswith("#"):
                yield f"the link {value!r}"
            if not local.startswith("aria-") and _OUTSIDE.search(value):
                yield f"the outside reference {value!r}"


def _digest(script: str) -> str:
    """A script's hash, as a content security policy wants it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
