"""The page of security and the answers of the FAQ name tests that exist; nothing unpickles."""

import ast
import functools
import re
from typing import get_args

import pytest

from mmkd_export.plan import GoldenChoice
from tests.test_architecture import FILES, ROOT, label

UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
SIGNS = re.compile(r"pickle|dill|joblib|shelve|marshal|\beval\b|\bexec\b|\bload\b", flags=re.IGNORECASE)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def runs_what_it_reads(source):
    for node in ast.walk(ast.parse(source)) if SIGNS.search(source) else ():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (node.lineno for name in names if name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe_load = called == "torch.load" and options.get("weights_only") != "True"
            if called in ("eval", "exec") or options.get("allow_pickle") == "True" or unsafe_load:
                yield node.lineno


def test_nothing_in_the_package_unpickles_or_evaluates():
    assert len(FILES) > 300
    sources = [(path, path.read_text(encoding="utf-8")) for _, path in FILES]
    assert [f"{label(path)}:{line}" for path, source in sources for line in runs_what_it_reads(source)] == []


@functools.cache
def known_tests(file):
    return set(re.findall(r"^def (test_\w+)\(", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE))


def absent_tests(text):
    return [f"{file}::{name}" for file, name in NAMED_TEST.findall(text) if name not in known_tests(file)]


def test_every_promise_and_every_requirement_has_a_test_that_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.search(r"\| promise \| test \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text)
    assert promises is not None
    rows = promises.group(1).splitlines()
    assert len(rows) > 12
    assert [row for row in rows if not re.search(rf"{NAMED_TEST.pattern} \|$", row)] == []
    requirements = (ROOT / "docs" / "compliance.md").read_text(encoding="utf-8")
    assert len(NAMED_TEST.findall(requirements)) > 15
    assert absent_tests(text + requirements) == []


def test_the_golden_windows_that_the_page_offers_can_be_asked_for():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    offered = re.findall(r"`--golden (\w+)`(?: or `(\w+)`)?", text)
    assert {name for names in offered for name in names if name} == {"synthetic"} < set(get_args(GoldenChoice))


SECTIONS = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("section", SECTIONS, ids=[section.splitlines()[0] for section in SECTIONS])
def test_an_answer_has_few_lines_a_link_and_tests_that_exist(section):
    assert (len(SECTIONS), len(section.strip().splitlines()) <= 10) == (15, True)
    assert re.search(r"\]\((export|devices|embedding|benchmark)\.md", section)
    assert NAMED_TEST.search(section)
    assert absent_tests(section) == []
