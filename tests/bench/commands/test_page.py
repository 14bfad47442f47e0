from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from mmkd_bench.commands.cli import make_app
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import BenchReport
from tests.bench.made import make_launch, make_report, write_report


def test_reports_become_one_page(tmp_path: Path) -> None:
    text = page_of(tmp_path, make_report([make_launch(100.0)] * 5), make_report([make_launch(150.0)] * 5))
    assert "has the smallest median, 100\u202fµs, then " in text
    assert len(text) < 1_000_000


def page_of(folder: Path, *reports: BenchReport) -> str:
    names = [folder / f"{number}.json" for number in range(len(reports))]
    for name, report in zip(names, reports, strict=True):
        write_report(name, report)
    page = folder / "page.html"
    done = CliRunner().invoke(make_app(), ["page", *map(str, names), "-o", str(page)])
    assert done.exit_code == 0, done.output
    return page.read_text(encoding="utf-8")


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
        f"{tmp_path / 'run.txt'}: expected a name that ends in .html; only such a file is overwritten"
    )


def test_a_hop_needs_a_stream(bundle: Path) -> None:
    done = CliRunner().invoke(make_app(), ["run", str(bundle), "--hop", "8"])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == "hop: expected a stream as well; add --stream"


def test_the_hop_of_a_stream_is_a_second_where_nobody_says_it(bundle: Path) -> None:
    arguments = ["run", str(bundle), "--stream", "--launches", "1", "--duration-s", "0.1", "--no-energy"]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    assert "one call is a hop of 20 samples" in done.output  # of a modality of 20 samples per second
