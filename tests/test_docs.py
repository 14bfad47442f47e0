"""Documents are tests: blocks run, links resolve, commands parse, tables agree with the code, figures name a command.

What a document shows is what a reader types, so it is run as a reader would: Python blocks in order, in names of their
own and in an empty folder; examples as programs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from mmkd_app.cli.catalogue import COMMANDS
from mmkd_edge import EdgePredictor, Prediction, UsageError, example_bundle
from mmkd_edge.bundle import manifest
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.importing.recipe import LabelRule, SplitRule, WindowRule, read_recipe
from mmkd_models.distillation.recipe import Recipe, Term, check_terms
from mmkd_station.spec import read_run_spec
from tests.test_architecture import PACKAGES, ROOT

DOCS = ROOT / "docs"
AT_THE_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")
DOCUMENTS = [*(ROOT / name for name in AT_THE_TOP), *sorted(DOCS.rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCREEN_LINES = 50
EXAMPLE_LINES = 60

FENCE = re.compile(r"```(\w*)\s*\Z")
LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|href)="([^"]+)\"""")
INLINE_CODE = re.compile(r"`([^`]+)`")
LONG_OPTION = re.compile(r"--[a-z][a-z-]*")
FIGURE_ROW = re.compile(r"\|.*\d.*\|")
OUR_COMMAND = re.compile(r"mmkd-(?!edge\b)[a-z]+|make [a-z]")
COMMAND = re.compile(r"\b(mmkd-(?!edge\b)[a-z]+|make) |\bpython ")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a document: in a fenced block of `language`, or in prose where `language` is None."""

    number: int
    text: str
    language: str | None


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def lines_of(text):
    language = None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if fence is None:
            yield Line(number=number, text=line, language=language)
        else:
            language = fence[1] if language is None else None
    assert language is None, "a block is never closed"


def python_of(text):
    """All Python blocks as one source, each line where it stands in the document, so that tracebacks point there."""
    last = len(text.splitlines())
    shown = {line.number: line.text for line in lines_of(text) if line.language == "python"}
    return "\n".join(shown.get(number, "") for number in range(1, last + 1)) + "\n" if shown else ""


def blocks_of(text, language):
    blocks = {}
    previous, start = -1, -1
    for line in lines_of(text):
        if line.language == language:
            start = start if line.number == previous + 1 else line.number
            blocks.setdefault(start, []).append(line.text)
            previous = line.number
    return ["\n".join(block) for block in blocks.values()]


def run(command, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


PYTHON = [path for path in DOCUMENTS if python_of(path.read_text(encoding="utf-8"))]
SLOW_PYTHON = {"docs/training.md"}  # trains every member on all windows; test_verbs.py makes the same calls on a few


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (name_of(path) in SLOW_PYTHON)) for path in PYTHON],
    ids=map(name_of, PYTHON),
)
def test_the_python_of_a_document_runs(path, tmp_path, monkeypatch):
    source = python_of(path.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    if "student.edge" in source:  # what the reader has exported by then
        shutil.copy(example_bundle(), tmp_path / "student.edge")
    exec(compile(source, str(path), "exec"), {"__name__": "__main__"})


SLOW_EXAMPLES = {f"examples/{name}.py" for name in ("own_networks", "several_labels", "own_loss")}  # they train


def with_marks(path):
    """An example; those that train and export take half a minute and are slow."""
    slow = name_of(path) in SLOW_EXAMPLES or "mmkd_export" in path.read_text(encoding="utf-8")
    return pytest.param(path, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("path", [with_marks(path) for path in EXAMPLES], ids=map(name_of, EXAMPLES))
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    arguments = ["--help"] if "argparse" in path.read_text(encoding="utf-8") else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit, match="0") if arguments else contextlib.nullcontext():
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_the_example_in_an_event_loop_streams_the_bundle_it_is_given(monkeypatch, capsys):
    def streamed(*arguments):
        monkeypatch.setattr(sys, "argv", ["asyncio_stream.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / "asyncio_stream.py"), run_name="__main__")
        return capsys.readouterr().out

    assert streamed(example_bundle()) == streamed()
    with pytest.raises(UsageError, match=r"absent\.edge: expected a bundle written by mmkd-export, found no such file"):
        streamed("absent.edge")


TOML = [path for path in DOCUMENTS if blocks_of(path.read_text(encoding="utf-8"), "toml")]


@pytest.mark.parametrize("path", TOML, ids=name_of)
def test_toml_of_a_document_is_taken(path, tmp_path):
    for block in blocks_of(path.read_text(encoding="utf-8"), "toml"):
        file = tmp_path / "shown.toml"
        file.write_text(block, encoding="utf-8")
        if "[[stations]]" in block:
            assert read_run_spec(file).stations
        elif "[[source]]" in block:
            assert read_recipe(file).source
        else:  # parts of a recipe
            parts = {"labels": LabelRule, "windows": WindowRule, "split": SplitRule}
            shown = msgspec.toml.decode(block.encode())
            assert [msgspec.convert(value, type=parts[name]) for name, value in shown.items()]


def test_dockerfiles_of_documents_are_clean(tmp_path):
    blocks = [block for path in DOCUMENTS for block in blocks_of(path.read_text(encoding="utf-8"), "dockerfile")]
    assert blocks
    for block in blocks:
        (tmp_path / "Dockerfile").write_text(f"{block}\n", encoding="utf-8")
        done = run([Path(sys.executable).with_name("hadolint"), "Dockerfile"], tmp_path)
        assert (done.returncode, done.stdout) == (0, "")


def headings_of(text):
    """Anchors of the headings, as GitHub makes them."""
    titles = [
        line.text.lstrip("#").strip() for line in lines_of(text) if line.language is None and line.text[:1] == "#"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links_of(text):
    for line in lines_of(text):
        if line.language is None:
            for found in LINK.finditer(INLINE_CODE.sub("", line.text)):
                yield line.number, found[1] or found[2]


def broken_links(path, text):
    """One entry for each link of a document at `path` that leads nowhere, or out of the repository."""
    broken = []
    for number, link in links_of(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve()
        found = file.is_relative_to(ROOT) and file.exists()
        if found and anchor:
            found = anchor in headings_of(file.read_text(encoding="utf-8") if target else text)
        if not found:
            broken.append(f"{name_of(path)}:{number}: {link}")
    return broken


OUR_FILE = re.compile(r"\b(?:tests|benchmarks|examples)/[\w/]+\.\w+")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_blocks_are_run_or_read_links_resolve_and_files_of_the_repository_are_there(path):
    text = path.read_text(encoding="utf-8")
    # Without a language: what a command printed.
    languages = {None, "", "text", "sh", "python", "json", "toml", "dockerfile"}
    assert {line.language for line in lines_of(text)} <= languages
    assert all(isinstance(json.loads(block), dict) for block in blocks_of(text, "json"))
    assert broken_links(path, text) == []
    named = set(OUR_FILE.findall(text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


SCRIPTS = {name: command.main for name, command in COMMANDS.items()}
MAKE_TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@functools.cache
def answer(*arguments):
    """Exit code and all output of a command of ours, in this process: importing PyTorch once is enough."""
    module, function = SCRIPTS[arguments[0]].split(":")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setenv("COLUMNS", "250")  # a narrow help shortens the names of options
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as end:
            getattr(importlib.import_module(module), function)()
    return int(end.value.code or 0), said.getvalue()


def fault_of(command, *, whole):
    """What is wrong with a command line, which is only parsed; where it is not `whole`, its options must exist."""
    program, *arguments = command
    if program == "make":
        unknown = [target for target in arguments if "=" not in target and target not in MAKE_TARGETS]
        return f"make has no target {unknown[0]!r}" if unknown else ""
    if program not in SCRIPTS:
        return f"there is no command {program!r}"
    path = [program]
    has_commands = " COMMAND " in answer(program, "--help")[1].partition("\n")[0]
    if has_commands and arguments and arguments[0][0] != "-":
        path.append(arguments[0])
    code, text = answer(*path, "--help")
    if code == 0 and whole:
        # --help comes before any work, and after the whole line was parsed.
        code, text = answer(*path, "--help", *command[len(path) :])
    if code != 0:
        return text.strip()
    known = {*LONG_OPTION.findall(text), "--debug", "--help", "--version"}
    unknown = sorted({option for word in arguments for option in LONG_OPTION.findall(word)} - known)
    return f"{' '.join(path)} has no option {unknown[0]}" if unknown else ""


def commands_in(shown):
    words = shlex.split(shown.removeprefix("$ "), comments=True)
    command = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";"):
            if command and (command[0] == "make" or command[0].startswith("mmkd-")):
                yield command
            command = []
        elif command or not re.match(r"[A-Z_]+=", word):  # settings before a command are the shell's
            command.append(word if command else Path(word).name)


def shown_commands(text):
    """Our commands in a document, by line, and whether they are whole: in blocks they are, as `code` in prose not."""
    begun = ""
    for line in lines_of(text):
        if line.language is None:
            codes = [code for code in INLINE_CODE.findall(line.text) if OUR_COMMAND.match(code)]
            yield from ((line.number, command, False) for code in codes for command in commands_in(code))
        elif line.language in ("", "sh"):
            shown = begun + line.text.strip()
            begun = shown.removesuffix("\\") if shown.endswith("\\") else ""
            # In a block without a language words that explain the command may follow it.
            shown = shown if line.language == "sh" else re.split(r"\s{3,}", shown)[0]
            if not begun and OUR_COMMAND.search(shown):
                yield from ((line.number, command, True) for command in commands_in(shown))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_of_a_document_parse(path):
    shown = shown_commands(path.read_text(encoding="utf-8"))
    faults = [(number, fault_of(command, whole=whole)) for number, command, whole in shown]
    assert [f"line {number}: {fault}" for number, fault in faults if fault] == []


def figures_without_command(text):
    """Sections that show a table of figures, and neither they nor a section around them names a command."""
    open_sections = []  # level and heading, outermost first
    named = set()
    shown = []
    for line in lines_of(text):
        if line.language is None and line.text.startswith("#"):
            level = len(line.text) - len(line.text.lstrip("#"))
            open_sections = [section for section in open_sections if section[0] < level]
            open_sections.append((level, line.text.lstrip("# ")))
        headings = tuple(heading for _, heading in open_sections)
        if COMMAND.search(line.text) and headings:
            named.add(headings[-1])
        if line.language is None and FIGURE_ROW.match(line.text) and headings:
            shown.append((headings[-1], headings))
    return list(dict.fromkeys(heading for heading, around in shown if not named & set(around)))


def test_figures_name_their_command_and_others_are_seen():
    pages = sorted((DOCS / "results").glob("*.md"))
    silent = {name_of(page): figures_without_command(page.read_text(encoding="utf-8")) for page in pages}
    assert {page: sections for page, sections in silent.items() if sections} == {}
    text = "# A\n## B\n`make demo` gives\n### C\n| x | 1.0 |\n## D\n| y | 2.0 |\n"
    assert figures_without_command(text) == ["D"]


def test_stored_results_count_the_windows_of_all_seeds_as_their_matrices_do():
    stored = {page.name: json.loads(page.read_bytes()) for page in (DOCS / "results").glob("*.json")}
    assert stored
    for name, demo in stored.items():
        assert demo["dataset"]["windows"]["test"] == sum(map(sum, demo["teacher"]["confusion"])), name


def table_rows(text, first_cell):
    """The rows of the table whose head begins with `first_cell`, as cells without backquotes."""
    after = text.partition(f"\n| {first_cell} |")[2].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), after)
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_of_embedding_names_arguments_and_fields():
    text = (DOCS / "embedding.md").read_text(encoding="utf-8")
    arguments = [name for name in inspect.signature(EdgePredictor.open).parameters if name != "cls"]
    assert [row[0] for row in table_rows(text, "argument of `open`")] == arguments
    fields = [name for row in table_rows(text, "field") for name in re.findall(r"\w+", row[0])]
    assert fields == list(Prediction.__struct_fields__)


def test_the_bundle_page_names_every_key():
    prose = [line.text for line in lines_of((DOCS / "formats.md").read_text(encoding="utf-8")) if line.language is None]
    named = {code for line in prose for code in INLINE_CODE.findall(line)}
    parts = (manifest.Manifest, manifest.ModelEntry, manifest.Artifact, manifest.Parity, manifest.Novelty, ModalitySpec)
    assert [name for struct in parts for name in struct.__struct_fields__ if name not in named] == []


def test_the_page_of_training_names_every_loss_and_has_a_recipe():
    rows = table_rows((DOCS / "training.md").read_text(encoding="utf-8"), "term")
    tags = [term.__struct_config__.tag for term in get_args(Term)]
    assert [row[0] for row in rows] == tags
    (recipe,) = blocks_of((DOCS / "training.md").read_text(encoding="utf-8"), "json")
    check_terms(msgspec.json.decode(recipe, type=Recipe))


def test_every_decision_has_its_parts_and_is_in_the_index():
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    assert len({page.name[:3] for page in pages}) == len(pages)
    lines = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.match(rf"# {page.name[:3]} ", text), page
        assert re.match(r"\d{3}-", page.name), page
        assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Context", "## Choice", "## Price"]
        lines.append(f"- [{text.splitlines()[0].removeprefix('# ')}]({page.name})")
    assert [line for line in index.splitlines() if line.startswith("- ")] == lines
    assert "](decisions/README.md)" in (DOCS / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_architecture_has_every_room_in_its_table(package):
    rooms = {path.parent.name for path in PACKAGES[package].glob("*/__init__.py")}
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = table_rows(text.partition(f"### `{package}`")[2], "room")
    named = [row[0].removesuffix("/") for row in rows if row[0].endswith("/")]
    assert set(named) == rooms


def test_examples_and_contributing_are_short_and_the_changelog_begins_with_what_is_not_released():
    sources = [path for path in (ROOT / "examples").rglob("*.py") if path.name != "write_logs.py"]  # plays the plant
    long = [path.name for path in sources if len(path.read_text(encoding="utf-8").splitlines()) >= EXAMPLE_LINES]
    assert long == []
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= SCREEN_LINES
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"


PAGES_OF_NAMES = ("docs/architecture.md", "SECURITY.md", "CONTRIBUTING.md", "AGENTS.md")


@functools.cache
def names_of_the_code():
    """Every name that the code of the repository has, those of files and folders with it."""
    listed = ["git", "-C", ROOT, "ls-files", "*.py", "*.c", "*.h", ":!tests/test_docs.py"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.split()]
    names = {name for file in files for name in (*file.parts, file.stem)}
    return names.union(*(re.findall(r"\b[A-Za-z_]\w+\b", (ROOT / file).read_text(encoding="utf-8")) for file in files))


def strangers(text):
    """Names in code marks that the code does not have; commands and sentences are no names."""
    marked = re.findall(r"`([\w./]+)(?:\(\))?`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [name for name in marked if not (ROOT / name).exists()]
    return [name for name in found if not names_of_the_code().issuperset(re.findall(r"\w{2,}", name))]


@pytest.mark.parametrize("page", PAGES_OF_NAMES)
def test_a_page_for_developers_names_what_the_code_has(page):
    assert strangers((ROOT / page).read_text(encoding="utf-8")) == []


def test_names_that_the_code_lacks_are_seen():
    assert strangers("`EdgePredictor.open`, `opening/students`, `Monitor.answeredly`, `docs/nowhereland.md`") == [
        "Monitor.answeredly", "docs/nowhereland.md"
    ]  # fmt: skip
