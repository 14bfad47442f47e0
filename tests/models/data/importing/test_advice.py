"""Advice is followed as a user would: what a message says is written into the recipe, and the import gets further."""

import ast
import logging
import re
from pathlib import Path

import numpy as np
import pytest

import mmkd_models
from mmkd_app.training import recipes
from mmkd_app.training.recipes import run_recipe
from mmkd_edge.errors import MmkdError
from mmkd_models.data.importing.draft import draft_recipe
from tests.models.data.importing.conftest import START_S, write_temp
from tests.models.data.importing.raw_logs import write_flags
from tests.models.data.importing.test_limits import CASES, LABELS, STATES, TIME, change_plant, local_log, rows

_VALUE = r"'[^']*'|\{[^{}]*(?:\{[^{}]*\})?\}|\[[^\]]*\]|[\w.+-]+"
# Each form of advice on a recipe; `exclude` stands above the sources.
_FORMS = (
    re.compile(rf"\b(?:set|write) (?:(?P<section>labels)\.)?(?P<key>\w+) = (?P<value>{_VALUE})"),
    re.compile(r"\bset (?P<key>time_unit) to (?P<value>'s')"),
    re.compile(r"\bset (?P<key>timezone)(?:, such as|;) (?P<value>'[\w/-]+')"),
    re.compile(r"\bset (?P<key>offset_s), perhaps to (?P<value>[\d.-]+)"),
    re.compile(r"\bset '(?P<key>\w+)'"),
    re.compile(r"\bor '(?P<key>table|column)'"),
    re.compile(r" (?P<key>exclude) = (?P<value>\[.*?\])"),
    re.compile(r"\badd (?P<value>'[^']*') to '(?P<key>null)'"),
    re.compile(r"\b(?:add it to|or) 'labels\.(?P<key>ignore)'"),
    re.compile(r"'files' of \w+, such as files = \"(?P<new>[^\"]*)\" in place of \"(?P<old>[^\"]*)\""),
    re.compile(r"\bwrite a part, such as files = \"(?P<new>[^\"]*)\" in place of \"(?P<old>[^\"]*)\""),
)
# What only a person knows, where the message names a key alone.
_KNOWN = {
    "time_format": "'%d.%m.%Y %H:%M:%S'",
    "encoding": "'utf-16'",
    "format": "'csv'",
    "rate_hz": "10.0",
    "path": "'machine'",
    "column": "'ax'",
    "table": "'M0/acc.csv'",
}
_LABEL_KEYS = ("path", "column", "table", "match", "rename", "ignore", "offset_s", "task", "classes")
_SECTIONS = {"drop_copies": "split", "cover": "windows", **dict.fromkeys(_LABEL_KEYS, "labels")}
_GOT = re.compile(r", got ('[^']*')")
_ADVICE = re.compile(  # on the recipe, in the text of a message with {} for what it fills in
    r"\b(?:set|write) (?!it\b|both\b|back\b|forward\b|of\b)(?:\{\}|'\w+'|[\w.]+(?= =| to '|,|$))[^;]*"
    r"|\bexclude = [^;]*|\badd (?:it|\{\}) to '[^;]*|\bset timezone"
)
# Advice that another test follows, or that needs a device's file.
_ELSEWHERE = {
    "write {} = ['COLUMN']": "its word stands for a name that only a person knows",
    "write task = 'normal' in place of the keys of [labels]": "a question of a draft, below",
    "set 'rate_hz' and 'start'": "a TDMS channel without a waveform",
}


def _hints(message):
    """Matches of all advice on the recipe in a message, each once."""
    matches = [match for form in _FORMS for match in form.finditer(message)]
    return list({match[0]: match for match in matches}.values())


def _write(text, match):
    """A recipe in which the advice was followed."""
    given = match.groupdict()
    if "old" in given:
        assert given["old"] in text
        return text.replace(given["old"], given["new"])
    key = given["key"]
    value = f"[{_GOT.findall(match.string)[0]}]" if key == "ignore" else given.get("value") or _KNOWN[key]
    value = f'["", {value}]' if key == "null" else value
    if key == "exclude":
        return text.replace("version = 1\n", f"version = 1\nexclude = {value}\n")
    if key == "match":
        value = value.replace("PART", "machine").replace("COLUMN", "line")
    section = given.get("section") or _SECTIONS.get(key, "[source]")
    if " [labels] of this file" in match.string and "states" in match.string:
        section = "labels"
    head, name, body = text.partition(f"[{section}]\n")
    own, mark, rest = body.partition("\n[")
    own = re.sub(rf"^{key} = .*\n?", "", f"{own}\n", flags=re.MULTILINE)
    if key in ("path", "column", "table"):
        own = re.sub(r"^files = .*\n?", "", own, flags=re.MULTILINE)
    return f"{head}{name}{key} = {value}\n{own}{mark[1:]}{rest}"


def _import(plant, caplog):
    """All that the import says, without the figures of its success."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        try:
            lines = run_recipe(plant / "recipe.toml", None)
        except MmkdError as error:
            return str(error).replace(str(plant), "DIR")
    return "\n".join([*caplog.messages, *(line for line in lines if ", set " in line)])


def _another_unit(plant, caplog):
    file = plant / "M3" / "acc.csv"
    head, *lines = file.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    file.write_text("\n".join([head, *(f"{time},{1000 * float(ax):.5f},{ay}" for time, ax, ay in cells)]))


def _gaps(plant, caplog):
    for machine in range(6):
        file = plant / f"M{machine}" / "acc.csv"
        file.write_text("\n".join(line for k, line in enumerate(file.read_text().splitlines()) if k % 20 != 9))
    recipe = plant / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(TIME, f"{TIME}\nrate_hz = 10.0"))


def _no_common_time(plant, caplog):
    write_temp(plant, np.arange(40) / 4, later_s=7200)
    file = plant / "recipe.toml"
    temp = '[[source]]\nmodality = "temp"\nfiles = "{machine}/temp.csv"\ntime = "time"\n[labels]'
    file.write_text(file.read_text().replace("[labels]", temp))


def _copies_with_other_labels(plant, caplog):
    """Four lines of which one file has rows of another, with other labels."""
    for folder in plant.glob("M*"):
        for file in folder.iterdir():
            file.unlink()
    write_flags(plant)
    (plant / "recipe.toml").write_text(
        "version = 1\n[[source]]\nmodality = 'water'\nfiles = '{line}/{run}.csv'\ntime = 'datetime'\nrate_hz = 1.0\n"
        "timezone = 'UTC'\nmax_gap_s = 60.0\nchannels = ['vibration', 'current', 'pressure', 'flow']\n[labels]\n"
        "column = 'anomaly'\n[windows]\nlength_s = 10.0\n[split]\ngroup = 'line'\n"
    )


def _with_states(content):
    head, *lines = content.splitlines()
    return "\n".join([f"{head},state", *(f"{line},{k // 50}" for k, line in enumerate(lines))])


def _many_numbers(content):
    head, *_ = content.splitlines()
    start = START_S + 2000
    return "\n".join([head, *(f"{start + k / 1000},{start + (k + 1) / 1000},{k / 7:.4f}" for k in range(1001))])


_FAULT = b"start,end,label\n1762153400,1762153405,fault\n"
# What else is said of a plant, by its advice: changes as in CASES, or a function.
_MORE = {
    'set file_scale = {"M3/acc.csv" = {ax = 0.001}}': _another_unit,
    "set max_gap_s = 0.2": _gaps,
    "set cover = 'any'": _no_common_time,
    "set drop_copies = true": _copies_with_other_labels,
    "add it to 'labels.ignore', or set labels.task = 'classification'": {LABELS: f'{LABELS}\ntask = "regression"'},
    "add it to 'labels.classes' or 'labels.ignore'": {LABELS: f'{LABELS}\nclasses = ["ok", "worn"]', STATES: _FAULT},
    'set rename = {"OK" = "ok"}': {STATES: b"start,end,label\n1762153400,1762153405,OK\n"},
    'set rename = {"0" = "NAME", "1" = "NAME"}': {
        LABELS: 'column = "state"',
        **{f"M{n}/acc.csv": _with_states for n in range(6)},
    },
    "set labels.task = 'regression'": {STATES: _many_numbers},
    "set 'format'": {"{machine}/acc.csv": "{machine}/acc.log", **{f"M{n}/acc.log": local_log() for n in range(6)}},
    "set 'rate_hz'": {"M0/acc.csv": rows([START_S])},
    "set 'time_format'": {"M0/acc.csv": b"time,ax,ay\n03.11.2025 07:00:00,2,3\n"},
    "write channels = {temp = 'PLC1.T1'}": {TIME: f'{TIME}\ntag = "ax"\nvalue = "ay"\nrate_hz = 10.0'},
    "set timezone, such as 'Europe/Berlin'": {STATES: b"start,end,label\n2025-11-03 07:00:00,2025-11-03 07:00:05,ok\n"},
}
_FOLLOWED = {**{says: changes for says, changes in CASES.items() if _hints(says)}, **_MORE}


@pytest.mark.parametrize(("advice", "changes"), _FOLLOWED.items(), ids=range(len(_FOLLOWED)))
def test_what_a_message_advises_gets_the_import_further(advice, changes, plant, caplog):
    changes(plant, caplog) if callable(changes) else change_plant(plant, changes)
    file = plant / "recipe.toml"
    text, says = file.read_text(), _import(plant, caplog)
    hints = _hints(says)
    assert advice in says
    assert hints
    for match in hints:
        changed = _write(text, match)
        assert changed != text
        file.write_text(changed)
        further = _import(plant, caplog)
        first = next(line for line in says.splitlines() if match[0] in line)
        assert first not in further, (match[0], further)


def _texts(tree):
    """Texts of a module without docstrings; {} stands for what an f-string fills in."""
    inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(value.value if isinstance(value, ast.Constant) else "{}" for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def test_every_advice_on_the_recipe_has_a_case_that_follows_it():
    rooms = Path(mmkd_models.__path__[0])
    files = [*rooms.glob("data/checking/*.py"), *rooms.glob("data/importing/**/*.py"), *rooms.glob("data_report/*.py")]
    texts = {text for file in [*files, Path(recipes.__file__)] for text in _texts(ast.parse(file.read_text()))}
    advice = {found for text in texts if "\n" not in text for found in _ADVICE.findall(text)}
    assert len(advice) > 30
    heads = {re.split(r",| if | under | where | in place", found)[0] for found in advice - _ELSEWHERE.keys()}
    patterns = [re.escape(head).replace(r"\{\}", ".*?") for head in sorted(heads)]
    assert [pattern for pattern in patterns if not any(re.search(pattern, case) for case in _FOLLOWED)] == []


def _write_logs(folder, *names):
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).normal(size=100)
        lines = [f"{START_S + 1000 * number + k / 10:.1f},{value:.4f}" for k, value in enumerate(noise)]
        file.write_text("\n".join(["time,ax", *lines]) + "\n")


def test_the_answers_that_a_draft_offers_are_right(tmp_path, caplog):
    _write_logs(tmp_path, *(f"unit{unit}/{shift}_vib.csv" for unit in range(3) for shift in ("early", "late")))
    file, text = tmp_path / "recipe.toml", draft_recipe(tmp_path)
    pattern = re.search(r"write one source, files = '([^']*)'", text)[1]
    head, first, _, labels = re.split(r"(?=\n\[\[source\]\]|\n\[labels\])", text)
    text = head + re.sub(r'files = "[^"]*"', f'files = "{pattern}"', first) + labels
    assert "if all is normal running, write task = 'normal' in place of the keys of [labels]" in text
    file.write_text(re.sub(r"\[labels\]\n(.+\n)+", "[labels]\ntask = 'normal'\n", text))
    says = run_recipe(file, None)
    assert says[1].startswith(f"{tmp_path.name}: 30 windows of 6 recordings (")
    assert says[2].startswith("  normal: train ")
