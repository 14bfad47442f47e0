"""Every page that mmkd-edge makes, under axe-core, in a browser: wide and narrow, light and dark.

axe-core comes from the npm registry (MPL-2.0) and is not part of the repository; `MMKD_AXE=FILE` names an `axe.min.js`
that is there already. `MMKD_PICTURES=FOLDER` keeps a picture of each page.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

import mmkd_report
from mmkd_report import (
    render_adaptation,
    render_bench,
    render_data_report,
    render_demo,
    render_export,
    render_judging,
    render_sensors,
    render_study,
)

Document = dict[str, Any]

TESTS = Path(__file__).parents[1]
NPM = shutil.which("npm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(not (os.environ.get("MMKD_AXE") or NPM), reason="needs npm, or MMKD_AXE"),
]
PAGES = ("demo", "adaptation", "bench", "data", "judging", "sensors", "shift", "export", "study")
SIZES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
ASK = (
    "const done = arguments[arguments.length - 1];"
    "axe.run(document).then((found) => done(found.violations.map((one) => "
    "[one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.target.join(' ') + ' ' + node.failureSummary)])))"
)


def _tests_of(path: str) -> ModuleType:
    """Another module of tests, whose documents and fixtures are used here."""
    name = f"tests_of_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_bench, _judging = _tests_of("report/pages/test_bench_page.py"), _tests_of("report/pages/test_judging_page.py")
_live = _tests_of("station/test_page.py")
adaptation_document = msgspec.to_builtins(_tests_of("report/pages/test_adaptation_page.py").DOCUMENT)
data_document = _tests_of("report/pages/test_data_page.py").document
judging_document = _judging.document
sensors_document = msgspec.to_builtins(_tests_of("report/pages/test_sensors_page.py").DOCUMENT)
three = _tests_of("report/pages/test_export_page.py").three
searched = _tests_of("report/pages/test_study_page.py").searched
browser, page = _live.browser, _live.page


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
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
def findings(browser: Any, axe: str) -> Callable[..., list[str]]:
    """What axe-core calls serious or critical on a page, in both widths and schemes where no others are named."""

    def look(url: str, name: str, sizes: Sequence[tuple[int, str]] = SIZES) -> list[str]:
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


@pytest.fixture
def rendered(
    two_sensors: Document, data_document: Document, judging_document: Document, three: Document, searched: Document
) -> dict[str, str]:
    """One page of each kind."""
    return {
        "demo": render_demo(two_sensors),
        "adaptation": render_adaptation(adaptation_document),
        "bench": render_bench([_bench.run_of()]),
        "data": render_data_report(data_document),
        "judging": render_judging(_judging.with_suite(judging_document, "cost", _judging.describe(_judging.cost()))),
        "sensors": render_sensors(sensors_document),
        "shift": render_judging(_judging.with_suite(judging_document, "shift", _judging.left_out())),
        "export": render_export(three),
        "study": render_study(searched),
    }


def test_every_kind_of_page_is_looked_at() -> None:
    kinds = {name for name in mmkd_report.__all__ if name.startswith("render_")}
    assert len(PAGES) == len(kinds) + 1  # judging twice: on the dataset's own split, and by domain
    assert {name for name in kinds if name.removeprefix("render_").removesuffix("_report") not in PAGES} == set()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_a_report_has_no_serious_finding(
    name: str, rendered: dict[str, str], findings: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / f"{name}.html").write_text(rendered[name], encoding="utf-8")
    assert findings((tmp_path / f"{name}.html").as_uri(), name) == []


def test_the_page_of_a_running_station_has_no_serious_finding(
    page: tuple[str, str], findings: Callable[..., list[str]]
) -> None:
    assert findings(page[0], "monitor") == []


def test_the_site_has_no_serious_finding(findings: Callable[..., list[str]]) -> None:
    """Pages of each sort in every size, the others in the one that is hardest: narrow and dark."""
    site = TESTS.parent / "build" / "docs" / "site"
    if not (site / "index.html").exists():
        pytest.skip("make docs makes the site")
    whole = [site / name for name in ("index.html", "embedding.html", "reference/mmkd_edge.testing.html")]
    others = [page for page in sorted(site.rglob("*.html")) if page not in whole and page.name != "404.html"]
    found = [one for page in whole for one in findings(page.as_uri(), page.stem)]
    assert found + [one for page in others for one in findings(page.as_uri(), page.stem, [(390, "dark")])] == []
