"""The page in a real browser: what an operator sees, and what happens on a click."""

import re
import shutil

import msgspec
import numpy as np
import pytest

from mmkd_edge import ModalitySpec, TaskSpec, example_bundle
from mmkd_edge.testing import fake_predictor
from mmkd_models.data import shipped_dataset
from mmkd_station.board import Board
from mmkd_station.monitor.access import Access, read_address
from mmkd_station.monitor.server import serve_page
from mmkd_station.protocols.files import stdin_source
from mmkd_station.records import result_record
from mmkd_station.service import Service
from tests.station.rig import end, page_of, start, station_of, wanted

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
selenium = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")

STATIONS = """
[[stations]]
name = "press 1"
bundle = "{bundle}"
source = "recordings:{data}"
replay_speed = 10.0
hop = 50
alarms = [
    {{label = "FEL", confirm = "2/3", min_probability = 0.5, cooldown_s = 0.0}},
    {{label = "PEN", confirm = "2/3", min_probability = 0.5, cooldown_s = 0.0}},
]

[[stations]]
name = "press 2"
bundle = "{bundle}"
source = "csv:{log}"
follow = true
silence_s = 0.5
stale_s = 3.0
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two running stations; gives the address of their page and its token."""
    folder = tmp_path_factory.mktemp("page")
    log = folder / "log.csv"
    rows = "\n".join(f"{0.1 * (number % 7)},{0.5},{9.8 if number % 40 else ''}" for number in range(300))
    log.write_text(f"ax,ay,az\n{rows}\n")
    (folder / "stations.toml").write_text(
        STATIONS.format(bundle=example_bundle(), data=shipped_dataset(), log=log), encoding="utf-8"
    )
    child = start(folder / "stations.toml", "--monitor", "127.0.0.1:0")
    url, token = page_of(child)
    yield url, token.removeprefix("its token: ")
    end(child)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1400",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(20)
    driver.set_page_load_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


def wait(browser, condition, seconds=20.0):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, seconds).until(condition)


def text_of(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def click(browser, selector):
    """Clicks an element, also one that the page draws anew meanwhile."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    patient = WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException])
    patient.until(lambda _: browser.find_element("css selector", selector).click() is None)


def check_layouts(browser):
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            check_layout(browser, width=width, scheme=scheme)


def check_layout(browser, *, width, scheme):
    """The page is not too wide, and cuts no button off."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wait(browser, lambda _: True)
    browser.execute_async_script("setTimeout(arguments[0], 700)")
    sideways = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert sideways <= 0, f"the page is {sideways} pixels too wide at {width}"
    cut = browser.execute_script(
        "const box = document.querySelector('.scroll');"
        "return [...box.querySelectorAll('button')].some("
        "(one) => one.getBoundingClientRect().right > box.getBoundingClientRect().right + 1)"
    )
    assert not cut, f"a button of an episode is cut off at {width}"


def test_an_operator_sees_pauses_acknowledges_and_switches_the_station(browser, page):
    url, token = page
    browser.get(url)
    browser.get_log("browser")  # what an earlier page missed of a server that has ended
    wait(browser, lambda _: text_of(browser, "#connection") == "live")
    wait(browser, lambda _: browser.find_elements("css selector", "#episodes tr"))
    assert text_of(browser, "#now-name") == "press 1"
    assert len(browser.find_elements("css selector", "#signal canvas")) == 3
    assert len(browser.find_elements("css selector", "#shares li")) == 7
    label = browser.find_element("css selector", "#signal canvas").get_attribute("aria-label")
    assert re.fullmatch(r"ax, last 60 seconds: \S+ to [^,]+(, \S+ % missing)?", label)
    drawn = browser.execute_script(
        "const c = document.querySelector('#signal canvas');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v !== 0)"
    )
    assert drawn

    click(browser, "#pause")
    before = text_of(browser, "#facts")
    browser.execute_async_script("setTimeout(arguments[0], 1200)")
    assert text_of(browser, "#facts") == before
    assert browser.find_element("css selector", "#pause").get_attribute("aria-pressed") == "true"
    click(browser, "#pause")
    wait(browser, lambda _: text_of(browser, "#facts") != before)

    # Paused, so that the row stays where it is while it is clicked.
    click(browser, "#pause")
    row = browser.find_element("css selector", "#episodes button")
    episode = row.get_attribute("data-episode")
    row.click()
    wait(browser, lambda _: browser.find_element("css selector", "#ask").get_attribute("open") is not None)
    field = browser.find_element("css selector", "#token")
    field.send_keys("this is not the token")
    field.submit()
    wait(browser, lambda _: text_of(browser, "#ask-error") == "this is not the token")
    field.clear()
    field.send_keys(token)
    field.submit()
    wait(browser, lambda _: browser.find_element("css selector", "#ask").get_attribute("open") is None)
    click(browser, "#pause")
    wait(browser, lambda _: not browser.find_elements("css selector", f"button[data-episode='{episode}']"))

    # The token is known now: another episode is called a false alarm at once.
    wait(browser, lambda _: browser.find_elements("css selector", "#episodes button[data-false='true']"))
    click(browser, "#pause")
    wrong = browser.find_element("css selector", "#episodes button[data-false='true']")
    episode = wrong.get_attribute("data-episode")
    wrong.click()
    click(browser, "#pause")
    wait(browser, lambda _: not browser.find_elements("css selector", f"button[data-episode='{episode}']"))
    assert "false alarm" in text_of(browser, "#episodes")

    check_layouts(browser)
    click(browser, "button[data-station='press 2']")
    wait(browser, lambda _: text_of(browser, "#now-name") == "press 2")
    wait(browser, lambda _: text_of(browser, "#status") == "stale")
    assert text_of(browser, "#reason").startswith("no sample for ")
    assert "missing" in browser.find_element("css selector", "#signal canvas").get_attribute("aria-label")
    check_layout(browser, width=1280, scheme="light")
    complaints = [one for one in browser.get_log("browser") if one["level"] == "SEVERE" and "401" not in one["message"]]
    assert complaints == []


def test_what_is_unknown_is_said_and_of_several_sensors_the_one_that_answers_is_drawn(browser):
    labels = TaskSpec(labels=("sound", "worn"))
    acc = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=100.0, samples=20)
    gyro = ModalitySpec(name="gyro", channels=("z",), unit="deg/s", rate_hz=100.0, samples=20)
    predictor = fake_predictor([0.1, 0.9], modality=acc, labels=labels, novelty=2.0)
    station = station_of(predictor, stdin_source("stdin", "", wanted(acc)), name="press 3")
    board = station.board = Board([acc, gyro], labels)
    times = np.arange(0, 30, 0.01)
    board.samples(times, np.stack([np.sin(times), np.cos(times)], axis=1).astype(np.float32), sensor=0)
    board.samples(times, np.sin(3 * times)[:, None].astype(np.float32), sensor=1)
    prediction = predictor.predict(np.ones(acc.shape))

    def tell(number, **changes):
        changed = msgspec.structs.replace(prediction, **changes)
        board.record(result_record(changed, station="press 3", number=number, time_s=float(number), decided_s=1.0))

    for number in range(20, 25):
        tell(number, status="ok", novelty=0.64, reason="")
    for number in range(25, 30):
        tell(number)
    service, address = Service(stations=[station], outlets=[], predictors=[]), read_address("127.0.0.1:0")
    access = Access("a token of the plant", address, is_open=True)
    with serve_page(service, address=address, access=access) as url:
        browser.get(url)
        wait(browser, lambda _: text_of(browser, "#novelty") == "novelty: p-value 0.50")
        assert browser.find_element("css selector", "#novelty").is_displayed()
        assert (text_of(browser, "#status"), text_of(browser, "#label")) == ("unknown", "worn")
        assert text_of(browser, "#reason") == prediction.reason != ""
        assert text_of(browser, "#spoken") == "press 3: worn, unknown"
        assert text_of(browser, "#signal-title") == "Signal of acc"
        assert len(browser.find_elements("css selector", "#signal canvas")) == 2
        check_layouts(browser)
        tell(30, status="degraded", modality="gyro", novelty=None, reason="'gyro' answers in place of acc")
        wait(browser, lambda _: text_of(browser, "#signal-title") == "Signal of gyro")
        (canvas,) = browser.find_elements("css selector", "#signal canvas")
        assert canvas.get_attribute("aria-label") == "z, last 60 seconds: -1.00 to 1.00"
        assert not browser.find_element("css selector", "#novelty").is_displayed()
        check_layout(browser, width=390, scheme="light")


@pytest.mark.slow
def test_the_page_is_used_with_the_keyboard_alone(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page[0])
    wait(browser, lambda _: len(browser.find_elements("css selector", "#stations button")) == 2)

    def focused():
        return browser.execute_script("return document.activeElement.textContent")

    seen = []
    for _ in range(4):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(focused())
    assert seen[:2] == ["Skip to the station", "Pause"]
    assert seen[2].startswith("press 1")
    assert seen[3].startswith("press 2")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, lambda _: text_of(browser, "#now-name") == "press 2")
    wait(browser, lambda _: focused().startswith("press 2"))  # what is drawn anew does not lose the focus
