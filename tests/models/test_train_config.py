"""Progress on stderr: a live bar for people, plain lines for files; never on stdout."""

import os
import pty
import threading
from contextlib import redirect_stderr

import pytest

from mmkd_app.cli.progress import training_bar
from mmkd_models.train_config import TrainingProgress


def at(step, *, best=None, steps=3):
    return TrainingProgress(step=step, steps=steps, terms={"task": 0.5, "loss": 1.0 / step}, best_score=best)


@pytest.mark.parametrize(("best", "words"), [(0.75, " best valid 0.750"), (None, "")])
def test_a_file_gets_the_last_step_as_a_line_with_every_term(capsys, best, words):
    with training_bar("acc student") as show:
        for step in (1, 2, 3):
            show(at(step, best=best if step > 1 else None))
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr) == ("", f"acc student: step 3/3 task 0.500 loss 0.333{words}\n")


class Screen:
    """A terminal that keeps what is written to it."""

    def __init__(self):
        self._reader, self._writer = pty.openpty()
        self.stream = os.fdopen(self._writer, "w", encoding="utf-8")
        self._seen = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        while True:
            try:
                part = os.read(self._reader, 4096)
            except OSError:  # Linux says so when the writer has gone
                return
            if not part:
                return
            self._seen += part

    def close(self):
        self.stream.close()
        self._thread.join()
        os.close(self._reader)
        return self._seen.decode()


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_a_bar_with_the_terms_in_colours_unless_it_wants_none(screen, capsys, monkeypatch, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    with redirect_stderr(screen.stream), training_bar("acc student") as show:
        for step in (1, 2, 3):
            show(at(step, best=0.75))
    seen = screen.close()
    assert "acc student" in seen
    assert "3/3" in seen
    assert "task 0.500 loss 0.333 best valid 0.750" in seen
    assert ("\x1b[3" in seen) == (not no_color)
    assert capsys.readouterr().out == ""
