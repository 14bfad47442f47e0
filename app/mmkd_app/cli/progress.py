"""Progress on stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mmkd_app.cli.show import say
from mmkd_models.train_config import OnStep, Show, TrainingProgress, terms_in_words

_PLAIN_EVERY_S = 10.0


@contextmanager
def progress_lines() -> Iterator[Show]:
    """Yield a function that shows lines on stderr: live on a terminal, else every few seconds."""
    if not sys.stderr.isatty():
        last: dict[str, float] = {}

        def _print(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
            title = line.split(": ")[0]
            if is_end or so_far_s - last.setdefault(title, so_far_s) >= _PLAIN_EVERY_S:
                last[title] = so_far_s
                say(f"{line}; {_left_text(left_s)}" if left_s else line)

        yield _print
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = BarColumn(bar_width=24), TextColumn("{task.fields[left]}"), TextColumn("{task.description}")
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0, left="")

        def _show(line: str, so_far_s: float, left_s: float | None, is_end: bool) -> None:
            done = 0.0 if left_s is None else so_far_s / max(so_far_s + left_s, 1e-9)
            bar.update(task, completed=done, description=line, left=_left_text(left_s))

        yield _show


def _left_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"about {seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"


def show_fraction(show: Show, *, shows_end: bool = True) -> Callable[[str, int, int], None]:
    """Return a function of line, done and total, which adds the time left; plain lines show the end if asked."""
    began, first = time.monotonic(), -1

    def _show(line: str, done: int, total: int) -> None:
        nonlocal first
        first = done if first < 0 else first  # a resumed training has steps of an earlier command
        so_far_s = time.monotonic() - began
        left_s = so_far_s * (total - done) / (done - first) if done > first else None
        show(line, so_far_s, left_s, shows_end and done == total)

    return _show


@contextmanager
def training_bar(title: str, parts: Sequence[str] = ("",)) -> Iterator[OnStep]:
    """Yield an observer that shows training steps on stderr; `parts` names the folders of several trainings."""
    with progress_lines() as lines:
        show = show_fraction(lines)

        def _on_step(progress: TrainingProgress) -> None:
            folder = "" if progress.folder is None else progress.folder.name
            part = parts.index(folder) if folder in parts else 0
            name = f"{title}, {parts[part]}" if parts[part] else title
            line = f"{name}: step {progress.step}/{progress.steps} {terms_in_words(progress)}"
            show(line, part * progress.steps + progress.step, len(parts) * progress.steps)

        yield _on_step
