"""Every answer of docs/faq.md has a link and is held by tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
