"""The page of security and the answers of the FAQ name tests that exist; nothing unpickles."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmkd_edge", "export/mmkd_export", "benchmarks/mmkd_bench", "models/mmkd_models", "reports/mmkd_report")
UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def runs_what_it_reads(source):
    """The lines in which a module unpickles, or evaluates text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (node.lineno for name in names if name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe_load = called == "torch.load" and options.get("weights_only") != "True"
            if called in ("eval", "exec") or options.get("allow_pickle") == "True" or unsafe_load:
                yield node.lineno


def test_every_promise_has_a_test_that_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.search(r"\| promise \| test \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text)
    assert promises is not None
    rows = promises.group(1).splitlines()
    named = [re.search(r"`(tests/\S+\.py)::(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 12
    for row, found in zip(rows, named, strict=True):
        assert found is not None, row
        path, name = found.groups()
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, row


def test_every_test_that_an_auditor_is_referred_to_is_there():
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", (ROOT / "docs" / "compliance.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


def test_nothing_in_the_package_unpickles_or_evaluates():
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 300
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in runs_what_it_reads(path.read_text(encoding="utf-8"))
    ]
    assert found == []


SECTIONS = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").split("\n## ")[1:]
HELD_BY = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_there_are_fifteen_answers_of_a_few_lines():
    assert len(SECTIONS) == 15
    assert [section.splitlines()[0] for section in SECTIONS if len(section.strip().splitlines()) > 10] == []


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_an_answer_has_a_link_and_tests_that_exist(section):
    assert re.search(r"\]\((export|devices|embedding|benchmark)\.md", section)
    tests = HELD_BY.findall(section)
    assert tests
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
