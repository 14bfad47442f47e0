"""What each package calls public is what it shows, and it is documented."""

import importlib
import inspect
import subprocess
import sys
import types

import pytest

import mmkd_edge
from tests.test_architecture import PACKAGES


def shown(module):
    """Names that a user sees in a module: neither private, nor a module, nor what only type checkers read."""
    return {
        name
        for name, value in ((name, getattr(module, name)) for name in dir(module))
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_exactly_what_is_public_and_documented(package):
    module = importlib.import_module(package)
    assert sorted(getattr(module, "__all__", [])) == sorted(shown(module))
    assert module.__doc__
    public = {name: getattr(module, name) for name in shown(module)}
    known = {
        name: inspect.getdoc(one) for name, one in public.items() if inspect.isclass(one) or inspect.isfunction(one)
    }
    assert [name for name, text in known.items() if not text] == []


SHOW_HELP = """
import contextlib, importlib, inspect, io, pydoc, sys, typing
module = importlib.import_module(sys.argv[1])
help(module)
for name in module.__all__:
    one = getattr(module, name)
    help(one)
    if not callable(one) or typing.get_origin(one):
        continue
    typing.get_type_hints(one)
    if not (inspect.isclass(one) and issubclass(one, BaseException)):
        inspect.signature(one, eval_str=True)
    for member in vars(one).values() if inspect.isclass(one) else ():
        function = member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "__func__", member))
        if inspect.isfunction(function):
            typing.get_type_hints(function)
            inspect.signature(function, eval_str=True)
"""


def test_help_and_signatures_of_everything_public_work_in_a_fresh_interpreter():
    command = [sys.executable, "-c", SHOW_HELP, "mmkd_edge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "class Prediction(" in done.stdout
    assert "probabilities" in done.stdout
    signature = str(inspect.signature(mmkd_edge.EdgePredictor.open))
    assert signature.startswith("(path: 'str | os.PathLike[str]', *, backend")
