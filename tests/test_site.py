"""The documents as a site: every page has its place, the strict build finds nothing, and no link leads nowhere.

The build needs the extra `docs`: its programs on PATH, or a package registry.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from tests.edge.said import said

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SETTINGS = (DOCS / "site" / "zensical.toml").read_text(encoding="utf-8")
NAVIGATION = re.findall(r'"([\w./-]+\.md)"', SETTINGS)
GENERATED = ("documents.md", "commands.md")  # as long as the code makes them
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "results").glob("*.md")])
MOST_LINES = 300
NEAR_THE_TOP = 40
stage = SimpleNamespace(**runpy.run_path(str(DOCS / "site" / "stage.py")))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    stage.stage(folder)
    return folder / "pages"


def test_the_navigation_has_every_page_once_and_no_other_and_assistants_find_all(pages):
    assert len(set(NAVIGATION)) == len(NAVIGATION)
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} - set(NAVIGATION) == set()
    assert [name for name in NAVIGATION if not (pages / name).is_file()] == []
    text = (pages / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# mmkd-edge\n\n> Distil a multimodal transformer into a single-sensor student, ")
    expected = [name.replace("README", "index").removesuffix(".md") for name in NAVIGATION]
    assert re.findall(r"\]\(([\w./-]+)\.html\)", text)[:-1] == expected
    assert "\n## Train\n\n- [Datasets](datasets.html): Make one from arrays, The directory, " in text
    assert text.endswith("\n- [JSON Schemas](documents.html): `schemas/NAME.json` of each document\n")


def test_links_become_pages_stay_in_code_and_do_not_leave_the_repository(pages):
    start = (pages / "index.md").read_text(encoding="utf-8")
    assert "](start.md)" in start
    assert "](docs/" not in start
    example = (pages / "repository" / "examples" / "plain_threads.py.md").read_text(encoding="utf-8")
    assert example.startswith("# `examples/plain_threads.py`\n\n```python\n")
    pieces = list(stage.parts_of("a `b` c\n```\n[d](e)\n```\nf\n"))
    assert [text for text, is_prose in pieces if not is_prose] == ["`b`", "```\n[d](e)\n```"]
    assert "".join(text for text, _ in pieces) == "a `b` c\n```\n[d](e)\n```\nf\n"
    told = "docs/any.md: expected a link to a file of the repository, found '../../elsewhere.md'; correct it"
    assert said(SystemExit, lambda: stage.target_of(DOCS / "any.md", "../../elsewhere.md")) == told


def test_figures_come_from_the_page_of_results():
    page = DOCS / "any.md"
    text = "before\n<!-- figures: results/live.md#%s -->\nafter\n"
    headings = re.findall(r"^#+ (.*)$", (DOCS / "results" / "live.md").read_text("utf-8"), flags=re.MULTILINE)
    anchors = [stage.heading_anchor(heading) for heading in headings]
    shown = stage.with_figures(page, text % anchors[0]).splitlines()
    assert (shown[0], shown[-1]) == ("before", "after")
    assert all(line.startswith("|") for line in shown[1:-1])
    told = said(SystemExit, stage.with_figures, page, text % "nowhere")
    assert told == "docs/any.md: expected a table at results/live.md#nowhere, found none; correct it"


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if given.get("src") or (tag == "link" and given.get("rel") != "canonical" and given.get("href")):
            self.loaded.append(str(given.get("src") or given["href"]))


def broken_links(site):
    """One entry for each link and each loaded file of a site that is not there."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    broken.append(f"{path.relative_to(site)} loads {link}")
                continue
            target = path if not parts.path else Path(os.path.normpath(path.parent / unquote(parts.path)))
            target = target / "index.html" if target.is_dir() else target
            is_there = target.is_file()
            if is_there and target in pages:
                is_there = unquote(parts.fragment) in pages[target].anchors
            if not is_there:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


@pytest.fixture(scope="session")
def zensical(tmp_path_factory):
    """The program that builds the site, from PATH, or installed as the extra `docs` says."""
    if found := shutil.which("zensical"):
        return found
    (extra,) = re.findall(r"^docs = \[(.*)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)
    folder = tmp_path_factory.mktemp("docs-tools")
    venv.create(folder, with_pip=True, symlinks=True)
    needs = re.findall(r'"([^"]+)"', extra)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *needs], check=True)
    return str(folder / "bin" / "zensical")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(sys.version_info < (3, 11), reason="zensical needs Python 3.11")
def test_the_site_is_built_strictly_and_no_link_leads_nowhere(zensical):
    folder = ROOT / "build" / "docs"  # the settings name the packages from there
    stage.stage(folder)
    done = subprocess.run([zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = folder / "site"
    assert broken_links(site) == []
    links = re.findall(r"\]\((.*?)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert [link for link in links if not (site / link).is_file()] == []
    assert len(list(site.rglob("*.html"))) > len(NAVIGATION)
    reference = (site / "reference" / "mmkd_edge.html").read_text(encoding="utf-8")
    assert 'id="mmkd_edge.EdgePredictor.open"' in reference
    assert "<blockquote>" not in reference  # what `>>>` becomes where it is no code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_is_short_and_can_be_tried_near_its_top(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES or page.name in GENERATED
    if page.parent == DOCS and page.name not in GENERATED:  # results name their commands where the figures are
        top = "\n".join(lines[:NEAR_THE_TOP])
        assert re.search(r"^```|^    |`(make|mmkd-\w+) ", top, flags=re.MULTILINE)


def test_figures_and_the_picture_of_the_first_page_are_those_of_the_results():
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    results = (DOCS / "results" / "demo.md").read_text(encoding="utf-8").splitlines()
    assert rows
    assert [row for row in rows if row not in results] == []
    assert (DOCS / "demo.webp").stat().st_size < 150_000
