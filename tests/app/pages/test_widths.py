"""Every page in a browser, as wide as a desk and as narrow as a telephone, and what only a browser shows."""

import pytest

from tests.app.pages import test_every_page as pages
from tests.app.pages.rendered import render_demo
from tests.station import test_page as station

pytestmark = [pytest.mark.slow, station.pytestmark]
browser, document, data_document = station.browser, pages.document, pages.data_document
grid, searched, plain = pages.grid, pages.searched, pages.plain
rejected, three, judging_document = pages.rejected, pages.three, pages.judging_document
DESK, PHONE = ({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600} for width in (1280, 390))


def test_no_page_scrolls_sideways(document, browser, tmp_path):
    made, render = document
    (tmp_path / "page.html").write_text(render(made), encoding="utf-8")
    for metrics in (DESK, PHONE):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((tmp_path / "page.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= metrics["width"]


def test_every_sensor_of_a_subset_has_a_dot(five_sensors, browser, tmp_path):
    (tmp_path / "page.html").write_text(render_demo(five_sensors), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    dots = "return [...document.querySelectorAll('.subsets .in, .subsets .out')].map(dot => dot.offsetWidth)"
    assert min(browser.execute_script(dots)) > 5


def test_a_table_below_columns_keeps_apart_on_a_telephone(two_sensors, browser, tmp_path):
    (tmp_path / "page.html").write_text(render_demo(two_sensors), encoding="utf-8")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.get((tmp_path / "page.html").as_uri())
    gaps = (
        "return [...document.querySelectorAll('.columns + table')].map(table => "
        "table.getBoundingClientRect().top - table.previousElementSibling.getBoundingClientRect().bottom)"
    )
    assert min(browser.execute_script(gaps)) > 15
