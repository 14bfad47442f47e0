from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_bench.commands_cli import make_app
from mmkd_bench.report import BenchReport, Launch, write_report
from mmkd_edge.errors import UsageError


def test_reports_become_one_page(
    tmp_path: Path, launch_of: Callable[..., Launch], report_of: Callable[..., BenchReport]
) -> None:
    for name, p50_us in (("a", 100.0), ("b", 150.0)):
        write_report(tmp_path / f"{name}.json", report_of([launch_of(p50_us)] * 5))
    page = tmp_path / "page.html"
    done = CliRunner().invoke(make_app(), ["page", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "100\u202fµs, 1.50 times as fast as" in text
    assert len(text) < 1_000_000


def test_a_run_writes_its_page(bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    arguments = ["run", str(bundle), "--launches", "1", "--duration-s", "0.2", "--no-energy", "--page", str(page)]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "p99.9" in text
    assert str(bundle) in text


def test_a_page_of_another_name_is_refused_before_anything_is_measured(bundle: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(make_app(), ["run", str(bundle), "--page", str(tmp_path / "run.txt")])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == (
        f"--page {tmp_path / 'run.txt'}: expected a name that ends in .html; only such a file is overwritten"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hop", "8"], "hop: expected a stream as well; add --stream"),
        (["--jitter", "0.1"], "jitter: expected a stream as well: windows have no times; add --stream"),
    ],
)
def test_options_of_a_stream_need_one(bundle: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(make_app(), ["run", str(bundle), *arguments])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == message


def test_the_hop_of_a_stream_is_a_second_where_nobody_says_it(bundle: Path) -> None:
    arguments = ["run", str(bundle), "--stream", "--launches", "1", "--duration-s", "0.1", "--no-energy"]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    assert "stream, hop 20" in done.output  # of a modality of 20 samples per second
