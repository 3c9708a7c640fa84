"""The HTML page in a real browser, opened from a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.page import html
from reports.section import Section

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")

HOSTILE = ["<script>window.hit = 1</script>", '"><img src=x onerror="window.hit = 1">']
METHODS = ["erm", "dcwp", "lff", "jtt", "mrm", HOSTILE[0], HOSTILE[1]]
SCORES = ["9.5 ± 0.1", "86.2 ± 2.1", "–", "100.0", "10.0 ± 3.0", "", "−15.0"]
P_VALUES = ["0.20", "< 0.001", "1e-05", "12", "–", "1,234", "0.01"]
FILLER = {f"column {i}": ["12.3 ± 4.5"] * len(METHODS) for i in range(12)}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="900" height="90"><path d="M0 0h9"/></svg>'


def ranking(dataset: str, methods: int) -> Section:
    ranks = [str(i + 1) for i in range(len(METHODS))]
    columns = {"#": ranks, "method": METHODS, "score": SCORES, "p": P_VALUES, **FILLER}
    table = pd.DataFrame(columns)[:methods]
    return Section("Leaderboard", dataset, table, (f"Of {dataset}. " * 20,), key=f"board-{dataset}")


SECTIONS = [
    ranking("cmnist", 7),
    ranking("bffhq", 3),
    ranking("celeba_with_a_name_" + "that_has_no_end_" * 5, 3),
    Section("Statistics", "Ranks", figure=SVG, notes=("All are alike.", *HOSTILE), key="ranks"),
    Section("Selection rules", "cmnist", pd.DataFrame({"method": ["erm"], "last": ["1"]}), key="r"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    """The browser with the page loaded, 1280 x 900 and light."""
    file = tmp_path / "page.html"
    file.write_text(html(SECTIONS, "A title", f"Of {HOSTILE[1]}"))
    emulate(browser, width=1280)
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # drops what was logged before
    browser.get(file.as_uri())
    return browser


def emulate(browser: Any, width: int, scheme: str = "light") -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [feature]})


def column(page: Any, index: int) -> list[str]:
    """The cells of a column of the first table, from top to bottom."""
    return page.execute_script(
        "return [...document.querySelectorAll('table')[0].tBodies[0].rows]"
        f".map((row) => row.cells[{index}].textContent)"
    )


def header(page: Any, index: int) -> Any:
    return page.find_elements("css selector", "th")[index]


def type_into_filter(page: Any, text: str) -> None:
    field = page.find_element("css selector", "input")
    field.clear()
    field.send_keys(text)


def visible(page: Any, selector: str) -> list[str]:
    found = page.find_elements("css selector", selector)
    return [element.text for element in found if element.is_displayed()]


def test_it_loads_without_an_error_or_a_request(page: Any) -> None:
    assert page.title == "A title"
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    logged = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in logged if e["method"].endswith("WillBeSent")]
    assert sent[0] == page.current_url
    assert all(url.startswith("data:") for url in sent[1:])
    sizes = "return [...document.images].map((image) => image.naturalWidth)"
    assert page.execute_script(sizes) == [900]


def test_a_header_sorts_by_the_leading_number_reverses_and_restores(page: Any) -> None:
    head = header(page, 2)
    head.click()
    rising = ["−15.0", "9.5 ± 0.1", "10.0 ± 3.0", "86.2 ± 2.1", "100.0"]
    assert column(page, 2) == [*rising, "–", ""] and column(page, 0) == list("7152436")
    assert head.get_attribute("aria-sort") == "ascending"
    head.click()
    assert column(page, 2) == [*rising[::-1], "–", ""]
    assert head.get_attribute("aria-sort") == "descending"
    head.click()
    assert column(page, 2) == SCORES and column(page, 1) == METHODS
    assert head.get_attribute("aria-sort") == "none"


def test_sorting_copes_with_signs_exponents_and_thousands(page: Any) -> None:
    header(page, 3).click()
    assert column(page, 3) == ["1e-05", "< 0.001", "0.01", "0.20", "12", "1,234", "–"]


def test_text_sorts_as_text_and_another_header_takes_over(page: Any) -> None:
    header(page, 2).click()
    header(page, 1).click()
    assert [name for name in column(page, 1) if name.isalpha()] == "dcwp erm jtt lff mrm".split()
    states = [header(page, i).get_attribute("aria-sort") for i in range(3)]
    assert states == ["none", "ascending", "none"]
    second = page.find_elements("css selector", "table")[1].find_elements("css selector", "td")
    assert second[1].text == "erm"  # each table keeps its own order


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["Enter", "Space"])
def test_the_keyboard_sorts(page: Any, key: str) -> None:
    header(page, 2).find_element("css selector", "button").send_keys(key)
    assert column(page, 2)[:2] == ["−15.0", "9.5 ± 0.1"]


def test_the_filter_hides_rows_sections_and_chapters(page: Any) -> None:
    chapters, titles, rows = "nav a", "h3", "tbody tr td:nth-child(2)"
    before = [visible(page, selector) for selector in (chapters, titles, rows)]
    assert [len(shown) for shown in before] == [3, 5, 14]

    type_into_filter(page, "JTT")
    assert visible(page, rows) == ["jtt"] and visible(page, titles) == ["cmnist"]
    assert visible(page, chapters) == visible(page, "h2") == ["Leaderboard"]
    assert visible(page, "output") == ["1 of 14 rows"]

    type_into_filter(page, "cmnist erm")  # the title counts as part of each row
    assert visible(page, rows) == ["erm", "1"] and visible(page, titles) == ["cmnist"] * 2

    type_into_filter(page, "alike")
    assert visible(page, titles) == ["Ranks"]
    type_into_filter(page, "no such method")
    assert visible(page, titles) == [] and visible(page, "output") == ["0 of 14 rows"]

    type_into_filter(page, " ")
    assert [visible(page, selector) for selector in (chapters, titles, rows)] == before


def test_sorting_keeps_the_filter(page: Any) -> None:
    type_into_filter(page, "cmnist rm")
    for _ in range(2):
        header(page, 2).click()
    assert visible(page, "#board-cmnist tbody td:nth-child(2)") == ["mrm", "erm"]


@pytest.mark.parametrize("width", [390, 1280])
def test_only_the_tables_scroll_sideways(page: Any, width: int) -> None:
    emulate(page, width)
    size = "return [document.documentElement.scrollWidth, innerWidth]"
    needed, there = page.execute_script(size)
    assert needed <= there == width
    cells = "return [...document.querySelectorAll('td')].slice(0, 3)"
    places = f"{cells}.map((cell) => cell.getBoundingClientRect().left)"
    before = page.execute_script(places)
    page.execute_script("document.querySelector('.box').scrollLeft = 150")
    after = page.execute_script(places)
    assert after[:2] == pytest.approx(before[:2], abs=1)  # ranks and names stay
    assert after[2] == pytest.approx(before[2] - 150, abs=1)
    page.execute_script("scrollTo(0, 500)")
    assert page.find_element("css selector", ".bar").location_once_scrolled_into_view["y"] == 0


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of "rgb(r, g, b)"."""
    channels = [int(c) / 255 for c in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_is_readable_in_light_and_dark(page: Any) -> None:
    papers = {}
    for scheme in ("light", "dark"):
        emulate(page, 1280, scheme)
        colour = "return getComputedStyle(document.querySelector('{}')).{}"
        paper = luminance(page.execute_script(colour.format("body", "backgroundColor")))
        wash = luminance(page.execute_script(colour.format("th", "backgroundColor")))
        for selector, ground in (
            ("body", paper),
            (".notes", paper),
            ("td small", paper),
            ("nav a", paper),
            (".contents a", paper),
            ("th button", wash),
        ):
            text = luminance(page.execute_script(colour.format(selector, "color")))
            dark, bright = sorted([text, ground])
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector)  # WCAG, level AA
        papers[scheme] = paper
        card = page.execute_script(colour.format("figure", "backgroundColor"))
        assert card == "rgb(255, 255, 255)"
    assert papers["light"] > 0.9 and papers["dark"] < 0.1


def test_names_are_shown_and_never_run(page: Any) -> None:
    assert column(page, 1)[-2:] == HOSTILE
    assert HOSTILE[1] in visible(page, "header p")[0]
    assert set(HOSTILE) <= {*visible(page, ".notes p")}
    page.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.hit = 1';"
        "document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', arguments[0])",
        '<img src="data:," onerror="window.hit = 1"><p onclick="window.hit = 1" id="p">.</p>',
    )
    page.find_element("css selector", "#p").click()
    assert page.execute_script("return window.hit") is None  # the policy stops even markup
    refused = [entry["message"] for entry in page.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) >= 2


def test_printing_shows_everything_but_the_navigation(page: Any) -> None:
    type_into_filter(page, "jtt")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert len(visible(page, "h3")) == 5 and len(visible(page, "tbody tr")) == 14
    assert visible(page, "nav") == visible(page, "input") == []
