"""What every command does, by the standard library: errors, `--debug`, `--version` and Ctrl-C."""

from __future__ import annotations

import codecs
import io
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mmkd_app.cli.catalogue import COMMANDS
from mmkd_app.cli.interrupts import INTERRUPTED_EXIT_CODE, end, raise_interrupts
from mmkd_edge.bundle.files import is_path_error
from mmkd_edge.errors import UnavailableError, UsageError, check_system, os_reason, printable
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import check_file

INTERNAL_EXIT_CODE = 1
BAD_INPUT_EXIT_CODE = 2
BROKEN_PIPE_EXIT_CODE = 141  # 128 + SIGPIPE, as shells report it

_HELP = {"-h", "--help"}


def run_command(
    name: str,
    command: Callable[[list[str]], object],
    *,
    arguments: Sequence[str] | None = None,
    needs: Sequence[str] = (),
    extra: str = "",
) -> NoReturn:
    """Run a command and end the process: an `MmkdError` is one message and its exit code, any other error exit 1.

    `command` takes the arguments without `--debug` (adds the traceback) and `--version`. A module of `needs` that is
    missing ends in exit 3, which names the `extra`; the help without typer is the catalogue's line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)  # ours count only before it
    options = set(arguments[:end])
    given = [word for word in arguments[:end] if word not in ("--debug", "--version")] + list(arguments[end:])
    debug = "--debug" in options
    only_help = bool(_HELP & options) or f"_{name.replace('-', '_').upper()}_COMPLETE" in os.environ  # typer's
    codecs.register_error("mmkd.escape", _escape)  # escape, as in JSON, what a terminal cannot show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mmkd.escape")
    try:
        raise_interrupts()
        if "--version" in options:
            from mmkd_edge import __version__

            sys.stdout.write(f"{name} {__version__}\n")
        elif only_help and "typer" in needs and find_spec("typer") is None:
            cure = f"The options are read by typer, which this Python lacks; run: pip install 'mmkd-edge[{extra}]'"
            sys.stdout.write(f"Usage: {name} [OPTIONS] ...\n\n  {COMMANDS[name].about}\n\n  {cure}\n")
        else:
            check_system(name)
            require_modules(() if only_help else needs, by=name, extra=extra)
            command(given)
        sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED_EXIT_CODE:  # typer's, without a message
            raise
        _say(f"{name}: interrupted", debug=debug)
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:  # the reader (head, less) ended
        _flush_stdout()
        sys.exit(BROKEN_PIPE_EXIT_CODE)
    except MemoryError:
        _say(f"{name}: out of memory: this process may have no more; give it more, or end others", debug=debug)
        sys.exit(UnavailableError.exit_code)
    except Exception as error:
        message, exit_code = _message_and_exit_code(error)
        _say(f"{name}: {printable(message, lines=True)}", debug=debug)
        _flush_stdout()
        sys.exit(exit_code)
    sys.exit(0)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """End the process at once on Ctrl-C while a command imports what takes seconds, unless it has another handler."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, partial(end, name=name))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def shell_line(*words: object) -> str:
    """Return a command line for a shell, quoted."""
    return shlex.join(str(word) for word in words)


def sensor_choice(sensors: Sequence[str], data: object, *, is_normal: bool = False) -> tuple[str, str]:
    """Return the sensor of a suggested command, SENSOR if there are several, and what shows which one to choose."""
    if len(sensors) == 1:
        return sensors[0], ""
    shows = ("mmkd-evaluate", "--sensors", data) if is_normal else ("mmkd-data", "report", data)
    return "SENSOR", f"; {shell_line(*shows)} shows which SENSOR to choose"


def check_page(page: Path, *, extra: str) -> None:
    """Raise an MmkdError if `--page FILE.html` cannot be written."""
    require_modules(("jinja2",), by="--page", extra=extra)
    check_file(page)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page}: expected a name that ends in .html; only such a file is overwritten")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4)), error.end


def _message_and_exit_code(error: Exception) -> tuple[str, int]:
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):  # also other packages' errors
        return str(error), exit_code
    if isinstance(error, OSError) and is_path_error(error):
        where = "cannot write" if error.filename is None else error.filename
        return f"{where}: {os_reason(error)}", BAD_INPUT_EXIT_CODE
    if isinstance(error, OSError):
        return str(error), INTERNAL_EXIT_CODE
    text = f"internal error: {type(error).__name__}: {error}; add --debug to see where, and please report it"
    return text, INTERNAL_EXIT_CODE


def _flush_stdout() -> None:
    """Drop what cannot be written, or Python would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
    sys.stderr.write(message + "\n")
