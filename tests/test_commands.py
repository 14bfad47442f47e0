"""What all commands have in common: help, version and names of options, without what their work needs."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import mmkd_edge
from mmkd_models.data import shipped_dataset
from tests.test_architecture import FILES, ROOT, tree_of

SCRIPTS = {one.name: one.value for one in entry_points(group="console_scripts") if one.name.startswith("mmkd-")}
MOST_HELP = 90  # characters
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "sklearn", "optuna", "lightning_fabric", "jinja2", "psutil")
CALL_ALL = """
import contextlib, importlib, io, json, sys
scripts, blocked = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in blocked:
    sys.modules[name] = None

def answer(*line):
    sys.argv, said = list(line), io.StringIO()
    module, function = scripts[line[0]].split(":")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            getattr(importlib.import_module(module), function)()
        except SystemExit as ended:
            return ended.code, said.getvalue()

found = {}
for line in map(str.split, json.loads(sys.argv[3])):
    found[" ".join(line)] = answer(*line)
    commands = found[" ".join(line)][1].partition("Commands:\\n")[2]
    indent = "    " if "COMMAND\\n" in commands else "  "  # argparse's page, or typer's
    for row in commands.splitlines():
        if row.startswith(indent) and row[len(indent)].strip():
            found[" ".join([*line[:-1], row.split()[0], line[-1]])] = answer(*line[:-1], row.split()[0], line[-1])
print(json.dumps(found))
"""


def answers(lines, *, blocked, columns=80):
    """Exit code and output of each command line, and of each subcommand, in a fresh interpreter without libraries."""
    done = subprocess.run(
        [sys.executable, "-c", CALL_ALL, json.dumps(SCRIPTS), json.dumps(blocked), json.dumps(lines)],
        env=os.environ | {"COLUMNS": str(columns), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {line: (code, text) for line, (code, text) in json.loads(done.stdout).items()}


def documented():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^### (mmkd-[a-z -]+)\n\n```text\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def asked():
    return answers([f"{name} {option}" for name in SCRIPTS for option in ("--help", "-h")], blocked=HEAVY)


@pytest.fixture(scope="module")
def pages(asked):
    return {line: answer for line, answer in asked.items() if line.endswith(" --help")}


@pytest.fixture(scope="module")
def without_typer():
    lines = [f"{name} {option}" for name in SCRIPTS for option in ("--help", "--version")]
    lines += [f"{name} --version" for name in documented() if name not in SCRIPTS]
    return answers(lines, blocked=("typer", "rich", *HEAVY))


def test_help_and_version_are_everywhere_and_need_no_heavy_library(asked, pages, without_typer):
    assert {"mmkd-bench capacity --help", "mmkd-data import --help", "mmkd-train student --help"} <= set(pages)
    assert {line: text for line, (code, text) in pages.items() if code != 0} == {}
    for line, (_, text) in pages.items():
        assert text.lower().startswith(f"usage: {line.removesuffix(' --help')} "), line
        assert "\n  -h, --help " in text, line
        assert [row for row in text.splitlines() if len(row) > 80] == [], line
    lines = [line.removesuffix(" --help") for line in pages]
    assert {line: asked[f"{line} -h"] for line in lines} == {line: pages[f"{line} --help"] for line in lines}
    expected = {f"{line} --version": (0, f"{line.split()[0]} {mmkd_edge.__version__}\n") for line in lines}
    assert {line: answer for line, answer in without_typer.items() if line.endswith(" --version")} == expected
    assert re.fullmatch(r"\d+\.\d+\.\d+", mmkd_edge.__version__)
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version", ' in pyproject
    assert 'path = "mmkd_edge/__init__.py"' in pyproject


def test_without_typer_help_says_what_a_command_does_and_how_to_get_the_rest(pages, without_typer):
    found = {line: answer for line, answer in without_typer.items() if line.endswith(" --help")}
    expected = (
        "Usage: mmkd-bench [OPTIONS] ...\n\n"
        "  Latency, memory and energy of a bundle on the machine that runs it.\n\n"
        "  The options are read by typer, which this Python lacks; run: pip install 'mmkd-edge[bench]'\n"
    )
    assert found["mmkd-bench --help"] == (0, expected)
    for line, (code, text) in found.items():
        # The same words as where typer is there.
        about = text.split("\n\n")[1]
        assert (code, " ".join(about.split()) in " ".join(pages[line][1].split())) == (0, True), line


def test_one_idea_has_one_name_in_every_command(pages):
    shown = {line: text for line, (_, text) in pages.items() if re.search(r"--out(put)?\b", text)}
    assert "mmkd-demo --help" in shown
    assert [line for line, text in shown.items() if not re.search(r"\n  -o, --out [A-Z]", text)] == []
    assert [line for line, (_, text) in pages.items() if re.search(r"--output|--max-drop\b(?!-p)", text)] == []


def test_a_bundle_is_judged_without_torch():
    bundle, data = mmkd_edge.example_bundle(), shipped_dataset()
    blocked = [name for name in HEAVY if name != "onnxruntime"]
    (code, text), refused = answers(
        [f"mmkd-evaluate {subject} {data}" for subject in (bundle, "student.ckpt")], blocked=blocked
    ).values()
    assert code == 0, text
    assert "accuracy " in text
    assert text.endswith(f"next: mmkd-bench run {bundle}\n")
    lacking = "mmkd-evaluate of a checkpoint needs torch and lightning_fabric, which this Python lacks"
    assert refused == (3, f"mmkd-evaluate: {lacking}; run: pip install 'mmkd-edge[train]'\n")


def test_the_page_of_commands_names_every_command_and_option(pages):
    option = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    shown = {line.removesuffix(" --help"): set(option.findall(help_text)) for line, (_, help_text) in pages.items()}
    of_all = {"--help", "--install-completion", "--show-completion"}
    listed = {line: set(option.findall(part)) - of_all for line, part in documented().items()}
    assert listed == {line: names - of_all for line, names in shown.items()}, "run: python docs/site/commands.py"


def test_the_help_of_an_option_is_short():
    long = [
        f"{path.name}:{node.lineno}: {node.args[0].value}"
        for _, path in FILES
        if "commands" in path.parts and "Option(" in path.read_text(encoding="utf-8")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Option"
        if isinstance(node.args[0], ast.Constant) and len(node.args[0].value) > MOST_HELP
    ]
    assert long == []
