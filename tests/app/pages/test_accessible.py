"""Every page that mmkd-edge makes, under axe-core, in a browser: wide and narrow, light and dark.

axe-core comes from the npm registry (MPL-2.0) and is not part of the repository; `MMKD_AXE=FILE` names an `axe.min.js`
that is there already. `MMKD_PICTURES=FOLDER` keeps a picture of each page.
"""

import base64
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.app.pages import test_every_page as pages
from tests.station import test_page as station

TESTS = Path(__file__).parents[1]
NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(not (os.environ.get("MMKD_AXE") or NPM), reason="needs npm, or MMKD_AXE"),
]
browser, page = station.browser, station.page
document, data_document, judging_document = pages.document, pages.data_document, pages.judging_document
grid, searched, plain, rejected, three = pages.grid, pages.searched, pages.plain, pages.rejected, pages.three
SIZES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
ASK = (
    "const done = arguments[arguments.length - 1];"
    "axe.run(document).then((found) => done(found.violations.map((one) => "
    "[one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.target.join(' ') + ' ' + node.failureSummary)])))"
)


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core."""
    if given := os.environ.get("MMKD_AXE"):
        return Path(given).read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run([str(NPM), "pack", "axe-core@4"], cwd=folder, capture_output=True, check=True)
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@pytest.fixture
def findings(browser, axe):
    """What axe-core calls serious or critical on a page, in both widths and schemes where no others are named."""

    def look(url, name, sizes=SIZES):
        found = []
        for width, scheme in sizes:
            browser.get("about:blank")  # a page that is still there keeps what it was asked first
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(url)
            browser.execute_async_script("setTimeout(arguments[0], 800)")
            browser.execute_script(axe)
            for impact, rule, nodes in browser.execute_async_script(ASK):
                if impact in ("serious", "critical"):
                    found.append(f"{name} {width} {scheme}: {rule}: {nodes}")
            browser.execute_script("try { localStorage.clear() } catch { /* a page without one */ }")
            if folder := os.environ.get("MMKD_PICTURES"):
                shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
                (Path(folder) / f"{name}-{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
        return found

    browser.set_script_timeout(120)
    return look


def test_a_page_of_a_report_has_no_serious_finding(document, findings, tmp_path):
    (tmp_path / "page.html").write_text(document[1](document[0]), encoding="utf-8")
    assert findings((tmp_path / "page.html").as_uri(), document[0].get("name", "page")) == []


def test_the_page_of_a_running_station_has_no_serious_finding(page, findings):
    assert findings(page[0], "monitor") == []


def test_the_site_has_no_serious_finding(findings):
    """Pages of each sort in every size, the others in the one that is hardest: narrow and dark."""
    site = TESTS.parent / "build" / "docs" / "site"
    if not (site / "index.html").exists():
        pytest.skip("make docs makes the site")
    whole = [site / name for name in ("index.html", "embedding.html", "reference/mmkd_edge.testing.html")]
    others = [page for page in sorted(site.rglob("*.html")) if page not in whole and page.name != "404.html"]
    found = [one for page in whole for one in findings(page.as_uri(), page.stem)]
    assert found + [one for page in others for one in findings(page.as_uri(), page.stem, [(390, "dark")])] == []
