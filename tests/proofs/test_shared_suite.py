"""Processor seconds of a process and its children, as `shared_suite` counts them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from proofs.shared_suite import used_by


@pytest.mark.skipif(sys.platform != "linux", reason="reads proc(5)")
def test_processor_seconds_are_told_for_a_process_and_its_children() -> None:
    busy = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\nsys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", busy], **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"done"
        found = used_by(os.getpid())
        child.kill()
    assert 0.28 <= found[child.pid] < 1
    assert found[os.getpid()] == pytest.approx(time.process_time(), abs=0.2)
    assert child.pid not in used_by(os.getpid())
