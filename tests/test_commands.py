"""What all commands have in common: help, version and names of options, without what their work needs."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import mmkd_edge
from mmkd_models.data import shipped_dataset

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


@pytest.fixture(scope="module")
def pages():
    return answers([f"{name} --help" for name in SCRIPTS], blocked=HEAVY)


def test_help_and_version_are_everywhere_and_need_no_heavy_library(pages):
    assert {"mmkd-bench capacity --help", "mmkd-data import --help", "mmkd-train student --help"} <= set(pages)
    assert {line: text for line, (code, text) in pages.items() if code != 0} == {}
    for line, (_, text) in pages.items():
        assert text.lower().startswith(f"usage: {line.removesuffix(' --help')} "), line
        assert "\n  -h, --help " in text, line
        assert [row for row in text.splitlines() if len(row) > 80] == [], line
    lines = [line.removesuffix(" --help") for line in pages]
    short = answers([f"{line} -h" for line in lines], blocked=HEAVY)
    assert {line: short[f"{line} -h"] for line in lines} == {line: pages[f"{line} --help"] for line in lines}
    versions = answers([f"{line} --version" for line in lines], blocked=("typer", "rich", *HEAVY))
    expected = {f"{line} --version": (0, f"{line.split()[0]} {mmkd_edge.__version__}\n") for line in lines}
    assert versions == expected
    assert re.fullmatch(r"\d+\.\d+\.\d+", mmkd_edge.__version__)
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version", ' in pyproject
    assert 'path = "mmkd_edge/__init__.py"' in pyproject


def test_without_typer_help_says_what_a_command_does_and_how_to_get_the_rest(pages):
    found = answers([f"{name} --help" for name in SCRIPTS], blocked=("typer", "rich", *HEAVY))
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
    assert [
        line for line, (_, text) in pages.items() if "--output" in text or re.search(r"--max-drop\b(?!-p)", text)
    ] == []


def test_a_bundle_is_judged_without_torch():
    bundle, data = mmkd_edge.example_bundle(), shipped_dataset()
    blocked = [name for name in HEAVY if name != "onnxruntime"]
    ((code, text),) = answers([f"mmkd-evaluate {bundle} {data}"], blocked=blocked).values()
    assert code == 0, text
    assert "accuracy " in text
    assert text.endswith(f"next: mmkd-bench run {bundle}\n")
    ((code, text),) = answers([f"mmkd-evaluate student.ckpt {data}"], blocked=blocked).values()
    lacking = "mmkd-evaluate of a checkpoint needs torch and lightning_fabric, which this Python lacks"
    assert (code, text) == (3, f"mmkd-evaluate: {lacking}; run: pip install 'mmkd-edge[train]'\n")


def test_the_page_of_commands_names_every_command_and_option(pages):
    text = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^### (mmkd-[a-z -]+)\n\n```text\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    option = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    shown = {line.removesuffix(" --help"): set(option.findall(help_text)) for line, (_, help_text) in pages.items()}
    of_all = {"--help", "--install-completion", "--show-completion"}
    listed = {line: set(option.findall(part)) - of_all for line, part in parts.items()}
    assert listed == {line: names - of_all for line, names in shown.items()}, "run: python docs/site/commands.py"


def test_the_help_of_an_option_is_short():
    long = []
    for path in sorted(Path(__file__).parents[1].glob("*/**/*.py")):
        if "/commands/" not in path.as_posix() or "/.venv/" in path.as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Option":
                text = node.args[0]
                if isinstance(text, ast.Constant) and len(text.value) > MOST_HELP:
                    long.append(f"{path.name}:{node.lineno}: {text.value}")
    assert long == []
