"""Writes docs/errors.md: every exit code, every error, and the packages that raise it, read from the code.

    python docs/site/errors.py

A test runs it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from checks.script import head, row, script_parser
from mmkd_app.cli.interrupts import INTERRUPTED_EXIT_CODE
from mmkd_app.cli.run import BROKEN_PIPE_EXIT_CODE, INTERNAL_EXIT_CODE
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import MmkdError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = (
    "mmkd_edge",
    "models/mmkd_models",
    "export/mmkd_export",
    "benchmarks/mmkd_bench",
    "documents/mmkd_documents",
    "app/mmkd_app",
)

_CODES: Mapping[int, tuple[str, str]] = {
    0: ("done", "nothing"),
    INTERNAL_EXIT_CODE: ("an internal error", "run it again with `--debug`, and report what it prints"),
    2: ("usage, or an input file or output that you can correct", "follow the message"),
    3: (
        "a library, device or backend is missing or fails; a sink lost records, or a source never connected",
        "install the extra that the message names; `mmkd-doctor` shows the rest",
    ),
    4: (
        "an accuracy or parity gate did not pass",
        "nothing was written; more or other windows with `--eval` and `--calib`, or another precision",
    ),
    5: ("a performance gate did not pass", "see the report; `mmkd-bench compare` shows significant changes"),
    6: (
        "a file made by mmkd-edge is damaged, incompatible or not signed",
        "copy or export it again; `mmkd-inspect` shows the damage",
    ),
    INTERRUPTED_EXIT_CODE: ("interrupted (Ctrl-C)", "the same command again; long ones resume"),
    BROKEN_PIPE_EXIT_CODE: ("the reader of the output has gone (`head`, `less`)", "nothing"),
}
_TOP = """\
# Errors and exit codes

```sh
mmkd-inspect student.edge --debug; echo $?   # 0, or one of the codes below; --debug adds the traceback
```

A message has the place, the expected and actual values, and a fix. It is on stderr, in one line or a few,
after the command's name; the exit code is the class of the problem, the same in every command. In Python every error is
an `MmkdError`.

This page is written by `python docs/site/errors.py`.

## Exit codes
"""
_MIDDLE = """
## Errors

Each row is also caught by the rows that it stands under. The last column names the packages that raise it themselves.
"""


def main() -> None:
    """Write the page."""
    script_parser(__doc__).parse_args()
    write_file(PAGE, page().encode())


def page() -> str:
    """The whole page, as the code is now."""
    _import_all()
    raised = raised_in()
    codes = [head("exit code", "meaning", "what to do", texts=3)]
    codes += [row(code, *words) for code, words in sorted(_CODES.items())]
    parts = [_TOP, *codes, _MIDDLE, *_table(MmkdError, raised)]
    return "\n".join(parts) + "\n"


def raised_in() -> dict[str, list[str]]:
    """Map each error's name to the packages whose code has `raise NAME(...)`."""
    found: dict[str, set[str]] = {}
    for path in _sources():
        for node in ast.walk(_tree_of(path)):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                found.setdefault(node.exc.func.id, set()).add(_module_of(path).partition(".")[0])
    return {name: sorted(packages) for name, packages in found.items()}


def _table(root: type[Exception], raised: Mapping[str, list[str]]) -> Iterator[str]:
    yield head("error", "exit code", "meaning", "raised in", texts=4)
    for depth, error in _below(root, 0):
        meaning = (inspect.getdoc(error) or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")
        name = f"{'&emsp;' * depth}`{error.__module__}.{error.__name__}`"
        packages = ", ".join(f"`{package}`" for package in raised.get(error.__name__, []))
        yield row(name, getattr(error, "exit_code", INTERNAL_EXIT_CODE), meaning, packages)


def _below(error: type[Exception], depth: int) -> Iterator[tuple[int, type[Exception]]]:
    yield depth, error
    # By name: the order of __subclasses__ is that of the imports.
    for child in sorted(error.__subclasses__(), key=lambda one: (getattr(one, "exit_code", 1), one.__name__)):
        if child.__module__.startswith("mmkd_"):
            yield from _below(child, depth + 1)


def _import_all() -> None:
    """Imports every module that defines an error of ours; they import nothing heavy."""
    for path in _sources():
        classes = (node for node in _tree_of(path).body if isinstance(node, ast.ClassDef))
        if any(one.name.endswith("Error") and one.bases for one in classes):
            importlib.import_module(_module_of(path))


@functools.cache
def _tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _module_of(path: Path) -> str:
    package = next(ROOT / one for one in PACKAGES if (ROOT / one) in path.parents)
    return ".".join(path.relative_to(package.parent).with_suffix("").parts)


if __name__ == "__main__":
    main()
