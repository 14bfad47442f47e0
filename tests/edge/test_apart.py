"""A process of its own: what it sees, what it may take, and what its end means."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mmkd_edge.apart import ProcessLimits, ProcessLines, describe_end, end_process, start_apart
from tests.edge.ended import has_ended

LIMITS = ProcessLimits(step_s=20.0, memory_bytes=1 << 29, file_bytes=1000)
MAIN = """
import os, signal, sys, time
import msgspec
from mmkd_edge.apart import ProcessLimits, answering

def main():
    limits, code = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[ProcessLimits, str])
    with answering(limits) as answers:
        print("a library says hello")
        exec(code)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(MAIN)
    monkeypatch.syspath_prepend(tmp_path)


def run(code, *, limits=LIMITS):
    process = start_apart("elsewhere:main", msgspec.json.encode((limits, code)))
    try:
        line = ProcessLines(process).next(limit_s=limits.step_s)
        return describe_end(process) if line is None else line
    finally:
        end_process(process)
        assert process.poll() is not None


def test_it_answers_on_a_line_whatever_is_printed_or_set(tmp_path, monkeypatch):
    assert run("os.write(1, b'and so does this'); answers.write(b'7 at last\\n')") == b"7 at last"
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run("answers.write(str(sys.flags.isolated).encode() + b'\\n')") == b"1"


def test_its_files_and_its_memory_are_bounded(tmp_path):
    writes = f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); file = open({str(tmp_path / 'kept')!r}, 'wb', 0); "
    told = "answers.write(f'{file.write(b\"x\" * 999)} {told}\\n'.encode())"
    tried = "\ntry: bytearray(1 << 30); told = 'taken'\nexcept MemoryError: told = 'refused'\n"
    assert run(writes + tried + told) == b"999 refused"
    assert (tmp_path / "kept").stat().st_size == 999
    past = "\ntry:\n  for _ in range(3): file.write(b'x' * 600)\nexcept OSError as error: answers.write(b'refused\\n')"
    assert run(writes + past) == b"refused"
    assert (tmp_path / "kept").stat().st_size == 1000


@pytest.mark.parametrize(
    ("code", "step_s", "told"),
    [
        ("os.abort()", 20.0, "it crashed: SIGABRT"),
        ("os._exit(3)", 20.0, "it ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 20.0, "the system ended it, as a rule for want of memory"),
        ("while True: pass", 0.2, "it takes too long"),
        ("time.sleep(60)", 0.2, "it takes too long"),
    ],
)
def test_its_end_has_a_reason(code, step_s, told):
    assert run(code, limits=msgspec.structs.replace(LIMITS, step_s=step_s)) == told


def test_what_it_starts_ends_with_it(tmp_path):
    started = f"import subprocess; one = subprocess.Popen(['sleep', '60'], stdout=open({os.devnull!r}, 'wb')); "
    line = run(started + "answers.write(b'%d\\n' % one.pid)")
    assert isinstance(line, bytes)
    assert has_ended(line)


def test_it_ends_with_the_process_that_started_it(tmp_path):
    """That one gets kill -9 while the child is at work."""
    path = str(tmp_path / "pid")
    code = f"open({path!r}, 'w').write(f'{{os.getpid()}}'); answers.write(b'begun\\n'); answers.flush()"
    request = msgspec.json.encode((LIMITS, code + "; time.sleep(60)")).decode()
    parent = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from mmkd_edge.apart import ProcessLines, start_apart\n"
        f"lines = ProcessLines(start_apart('elsewhere:main', {request!r}.encode()))\n"
        "print(lines.next(limit_s=20), flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", parent], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "b'begun'\n"
        assert not has_ended(Path(path).read_text(), within_s=0.1)
        process.kill()
    assert has_ended(Path(path).read_text())
