"""The page on benchmarks lists every command, and its links lead somewhere."""

import re
from pathlib import Path

from mmkd_bench.commands.cli import make_app

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "benchmark.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_list():
    commands = {command.name for command in make_app().registered_commands}
    assert set(re.findall(r"^mmkd-bench (\w+)", PAGE, flags=re.MULTILINE)) == commands
