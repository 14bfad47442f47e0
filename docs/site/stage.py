"""Makes the folder that the site is built from: the documents as they are, with links that stay inside it.

    python docs/site/stage.py build/docs

README.md becomes the start page. What a page links to outside of `docs/` becomes a separate page: documents as they
are, other files as code. `<!-- figures: results/demo.md#heading -->` becomes the first table below that heading, so
that a figure stands in one place. `llms.txt` (llmstxt.org) lists the pages. A link to what does not exist is
refused.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

SITE = Path(__file__).resolve().parent
DOCS = SITE.parent
ROOT = DOCS.parent

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
FIGURES = re.compile(r"^<!-- figures: ([\w/.-]+)#([\w-]+) -->$", flags=re.MULTILINE)
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".service": "ini"}
PICTURES = (".svg", ".png", ".webp")
# The modules whose public names make the reference, with the part of a user's work that each serves.
REFERENCE = {
    "mmkd_edge": "the runtime",
    "mmkd_edge.testing": "tests of an application",
    "mmkd_models.data": "datasets",
    "mmkd_models.training.trainings": "training and distilling",
    "mmkd_models.distillation.recipe": "recipes",
    "mmkd_export.pipeline": "export",
    "mmkd_bench.run": "measuring",
    "mmkd_documents": "pages",
}
DOCUMENTS = ("data_report", "study", "judging", "sensors", "adaptation", "export", "bench", "demo")


def place_of(file: Path) -> Path:
    """Where a file of the repository stands in the site, as a path below its pages."""
    if file == ROOT / "README.md":
        return Path("index.md")
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS)
    inside = file.relative_to(ROOT)
    keeps_its_name = file.suffix == ".md" or file.suffix in PICTURES
    return Path("repository") / (inside if keeps_its_name else inside.with_name(f"{inside.name}.md"))


def target_of(page: Path, link: str) -> Path:
    """The file that a page's link names; of a folder its README.md."""
    file = Path(os.path.normpath(page.parent / link))
    file = file / "README.md" if file.is_dir() else file
    if not file.is_file() or not file.is_relative_to(ROOT):
        sys.exit(f"{page.relative_to(ROOT)}: expected a link to a file of the repository, found {link!r}; correct it")
    return file


def heading_anchor(heading: str) -> str:
    """The anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def first_table(text: str, anchor: str) -> str:
    """The first table below the heading with this anchor; empty without one."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("#") and heading_anchor(line.lstrip("# ")) == anchor:
            break
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table:
            break
    return "\n".join(table)


def with_figures(page: Path, text: str) -> str:
    """Return the text with every table that it names, in its place."""

    def table(asked: re.Match[str]) -> str:
        found = first_table(target_of(page, asked[1]).read_text(encoding="utf-8"), asked[2])
        if not found:
            sys.exit(f"{page.relative_to(ROOT)}: expected a table at {asked[1]}#{asked[2]}, found none; correct it")
        return found

    return FIGURES.sub(table, text)


def parts_of(text: str) -> Iterator[tuple[str, bool]]:
    """A document in pieces, and whether each is prose: what stands in a fence or in backquotes is not."""
    for number, piece in enumerate(re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)):
        for inner, words in enumerate([piece] if number % 2 else re.split(r"(`[^`\n]+`)", piece)):
            yield words, number % 2 == 0 and inner % 2 == 0


def staged(file: Path, named: set[Path]) -> str:
    """A page of the site; adds what it links to outside of the documents to `named`."""
    if file.suffix != ".md":
        return f"# `{file.relative_to(ROOT)}`\n\n```{LANGUAGES.get(file.suffix, '')}\n{file.read_text('utf-8')}```\n"
    here = place_of(file).parent

    def link(found: re.Match[str]) -> str:
        target = target_of(file, found[1])
        named.add(target)
        return os.path.relpath(place_of(target), here)

    text = with_figures(file, file.read_text(encoding="utf-8"))
    return "".join(LINK.sub(link, piece) if is_prose else piece for piece, is_prose in parts_of(text))


def reference(module: str) -> str:
    """The page of a module's public names, which mkdocstrings fills from their docstrings."""
    head = f"# `{module}`: {REFERENCE[module]}\n\n::: {module}\n"
    if module != "mmkd_documents":
        return head
    makers = [f"pages.{name.removesuffix('_report')}.render_{name}" for name in DOCUMENTS] + ["page.write_page"]
    return head + "".join(
        f"\n::: mmkd_documents.{name}\n    options:\n      show_root_heading: true\n" for name in makers
    )


def llms_text(pages: Path) -> str:
    """The pages in the order of the navigation, each with its title and headings."""
    settings = (SITE / "zensical.toml").read_text(encoding="utf-8")
    name, about = (
        re.findall(rf'^site_{key} = "(.*)"$', settings, flags=re.MULTILINE)[0] for key in ("name", "description")
    )
    lines = [f"# {name}", "", f"> {about}"]
    for section, names in re.findall(
        r'^  \{ "([^"\n]+)" = \[\n(.*?)^  \] \},$', settings, flags=re.MULTILINE | re.DOTALL
    ):
        lines += ["", f"## {section}", ""]
        for place in re.findall(r'"([\w./-]+)\.md"', names):
            text = (pages / f"{place}.md").read_text(encoding="utf-8")
            title = re.findall(r"^# (.*)$", text, flags=re.MULTILINE)[0].replace("`", "")
            parts = [part.replace("`", "") for part in re.findall(r"^## (.*)$", text, flags=re.MULTILINE)]
            page = re.sub(r"README$", "index", place)  # as the site names the first page of a folder
            lines.append(f"- [{title}]({page}.html)" + (f": {', '.join(parts)}" if parts else ""))
    lines += ["", "## Optional", "", "- [JSON Schemas](documents.html): `schemas/NAME.json` of each document", ""]
    return "\n".join(lines)


def stage(folder: Path) -> list[Path]:
    """Write the pages below `folder`/pages and the settings; return the files that became pages."""
    pages = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    (pages / "reference").mkdir(parents=True)
    shutil.copy(SITE / "zensical.toml", folder)
    for name in ("site.css", "site.js"):
        shutil.copy(SITE / name, pages)
    waiting, done = {ROOT / "README.md", *DOCS.rglob("*.md")}, set[Path]()
    while waiting:
        file = waiting.pop()
        done.add(file)
        place = pages / place_of(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in PICTURES:
            shutil.copy(file, place)
            continue
        named = set[Path]()
        place.write_text(staged(file, named), encoding="utf-8")
        waiting |= named - done
    for module in REFERENCE:
        (pages / "reference" / f"{module}.md").write_text(reference(module), encoding="utf-8")
    (pages / "llms.txt").write_text(llms_text(pages), encoding="utf-8")
    return sorted(done)


if __name__ == "__main__":
    stage(Path(sys.argv[1]).resolve())
