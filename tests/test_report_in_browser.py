"""The report of a real evaluation, opened in a headless Chromium: it loads, sorts, can be read.

Skips, and says why, where Chromium, its driver or selenium is not installed.
"""

import base64
import re
import shutil
from dataclasses import replace

import pytest
import torch

from stages.evaluate.background import Background, Folded, StageTime
from stages.evaluate.known_problems import KnownProblem, of_problems
from stages.evaluate.one import Model
from stages.evaluate.params import EvaluateParams
from stages.evaluate.pictures import Picture
from stages.evaluate.report import IN_PAGE_BYTES, Report, write_report
from stages.evaluate.run import run
from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import summarise
from stages.train.watch.picture import curves_picture
from tiny import ball_case, one_thread, without_liver, write_store

pytestmark = pytest.mark.slow  # a browser, and an evaluation of its own

DASH = "\N{EN DASH}"
LEAST_CONTRAST = 4.5  # of text, WCAG 2.1 level AA
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)
HISTORY = [
    {"epoch": 1.0, "train/loss": 1.0, "loader/waiting": 0.1},
    {"epoch": 2.0, "train/loss": 0.5, "validation/dice": 0.5, "loader/waiting": 0.0},
]
TYPED = "<img src=x onerror=alert(1)>"
# text and what is behind it, of all elements that have text of their own
COLOURS = """
const behind = (one) => {
  for (let at = one; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour;
  }
  return "rgb(255, 255, 255)";
};
const has_text = (one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll("main *")].filter(has_text).map((one) =>
  [one.textContent.trim().slice(0, 30), getComputedStyle(one).color, behind(one)]);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of six cases: four found in part, one without liver, one missed."""
    folder = tmp_path_factory.mktemp("browser")
    cases = [ball_case(f"case-{index}", seed=index) for index in range(4)]
    for case in (without_liver(ball_case("case-4", seed=4)), ball_case("case-5", seed=5)):
        cases.append(replace(case, volume=case.volume - 500))
    write_store(folder / "cases", cases)
    problems = of_problems([KnownProblem("skipped", "readable", TYPED, TYPED, TYPED, TYPED)])
    background = Background(
        facts=[("Network", TYPED)],
        folded=[Folded("Parameters", ("Parameter", "Value"), [("lr", TYPED)])],
        curves=curves_picture(HISTORY),
        problems=problems,
        times=[StageTime("Training", 3.0, TYPED)],
    )

    def uncertain(hu):
        # bright is liver, but not everywhere: by place, as in no real network
        noise = 250 * torch.sin(torch.arange(hu.shape[-1]) ** 2 * 1.0)
        return torch.cat([50 - hu, hu - 50 + noise], dim=1)

    roles = {"case-1": "train"}
    model = Model(uncertain, (16, 16, 16), (-160.0, 240.0), roles, background)
    params = EvaluateParams(cases="all", scope="volume", overlap=0.25, tolerance_mm=2)
    with one_thread():
        run(folder / "cases", folder / "reports", params, model=model, device=torch.device("cpu"))
    return folder / "reports" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium without a network; one for all tests, since each takes seconds."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        missing = "chromedriver" if binary else "chromium"
        pytest.skip(f"{missing} is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def page(browser, report):
    """The report, freshly opened on a light screen."""
    show(browser)
    browser.get(report.as_uri())
    return browser


def show(browser, *, media="", scheme="light"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def column(page, index):
    """The texts of one column of the cases, from top to bottom."""
    script = """
    const rows = [...document.querySelectorAll("#cases tbody tr")];
    return rows.map((row) => row.cells[arguments[0]].textContent.trim());
    """
    return page.execute_script(script, index)


def click(page, index):
    script = 'document.querySelectorAll("#cases th button")[arguments[0]].click()'
    page.execute_script(script, index)


def test_the_console_has_nothing_to_complain_of(page):
    assert page.get_log("browser") == []


def test_every_picture_is_loaded(page):
    widths = page.execute_script("return [...document.images].map((one) => one.naturalWidth)")
    assert len(widths) == 2 + 6  # distributions, curves, and each case
    assert min(widths) > 1000


def test_nothing_that_was_typed_is_run(page):
    assert TYPED in page.execute_script("return document.body.textContent")
    assert page.execute_script('return document.querySelectorAll("[onerror]").length') == 0


def test_the_page_is_as_wide_as_the_screen(page):
    wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wider) == 0


class TestSorting:
    dice, hd95 = 3, 5

    def test_a_click_sorts_from_the_smallest_with_infinity_next_to_last_and_dashes_last(self, page):
        click(page, self.hd95)
        *numbers, infinite, undefined = column(page, self.hd95)
        assert (infinite, undefined) == ("∞", DASH)
        assert [float(text) for text in numbers] == sorted(float(text) for text in numbers)

    def test_a_second_click_sorts_from_infinity_down_and_dashes_stay_last(self, page):
        click(page, self.hd95)
        click(page, self.hd95)
        infinite, *numbers, undefined = column(page, self.hd95)
        assert (infinite, undefined) == ("∞", DASH)
        assert [float(text) for text in numbers] == sorted(map(float, numbers), reverse=True)

    def test_names_sort_as_names(self, page):
        click(page, 0)
        assert column(page, 0) == [f"case-{index}" for index in range(6)]

    def test_the_heading_says_how_it_is_sorted(self, page):
        click(page, self.hd95)
        script = """
        return [...document.querySelectorAll("#cases th")].map((one) => one.ariaSort)
        """
        said = page.execute_script(script)
        assert said[self.hd95] == "ascending"
        assert [one for one in said if one] == ["ascending"]

    def test_the_worst_dice_is_on_top_before_anybody_clicks(self, page):
        *numbers, undefined = column(page, self.dice)
        assert undefined == DASH
        assert [float(text) for text in numbers] == sorted(map(float, numbers))


@pytest.mark.parametrize(
    ("media", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "light")]
)
def test_all_text_can_be_read(page, media, scheme):
    show(page, media=media, scheme=scheme)
    texts = page.execute_script(COLOURS)
    assert len(texts) > 100
    faint = [one for one in texts if contrast(*one[1:]) < LEAST_CONTRAST]
    assert faint == []


def test_a_dark_screen_gets_a_dark_page(page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = luminance(page.execute_script(background))
    show(page, scheme="dark")
    assert luminance(page.execute_script(background)) < 0.05 < 0.8 < light


def test_the_report_prints_across_the_page_with_all_columns(page):
    printed = page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    [width, height] = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups()
    assert float(width) > float(height)


def test_a_picture_beside_the_report_is_loaded_from_disk_without_a_server(browser, tmp_path):
    case = CaseScores("c", "p", "test", *[0.5] * 11)
    picture = curves_picture(HISTORY).ljust(IN_PAGE_BYTES + 1, b".")  # too large for the page
    background = Background([], [], curves_picture(HISTORY), None, [])
    shown = [(case, Picture(picture, None))]
    report = Report(background, [case], [case], summarise([case]), background.curves, shown, 2.0)
    write_report(tmp_path / "report.html", report)
    wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
    show(browser)
    browser.get((tmp_path / "report.html").as_uri())
    browser.execute_script("document.querySelector('[loading=lazy]').scrollIntoView()")
    width = "return document.querySelector('[loading=lazy]').naturalWidth"
    wait(browser, 20).until(lambda page: page.execute_script(width) > 0)
    assert browser.get_log("browser") == []


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)``, 0 to 1, as WCAG 2.1 defines it."""
    shares = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """From 1, none, to 21, black on white."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)
