from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_bench.commands.cli import make_app
from mmkd_edge.errors import PerformanceError, UsageError
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


def test_a_fleet_has_a_page_and_a_budget_that_fails(tmp_path: Path) -> None:
    names = []
    for number in range(14):  # more than a page of single runs holds
        names.append(tmp_path / f"station-{number}.json")
        write_report(names[-1], make_report([make_launch(100.0 + number)] * 5))
    page = tmp_path / "fleet.html"
    arguments = ["page", *map(str, names), "--fleet", "-o", str(page)]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    assert "station-13.json" in page.read_text(encoding="utf-8")
    page.unlink()
    done = CliRunner().invoke(make_app(), [*arguments, "--budget-ms", "0.01"])
    assert isinstance(done.exception, PerformanceError)
    assert str(done.exception).startswith(f"the fleet is over its budget: {names[0]}: 99 of 100 calls take up to ")
    assert str(done.exception).endswith(" and 9 more")
    assert "Over budget" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--budget-ms", "5"], ["--fleet", "--budget-ms", "0"]])
def test_a_budget_needs_a_fleet_and_a_number_above_0(tmp_path: Path, arguments: list[str]) -> None:
    write_report(tmp_path / "a.json", make_report([make_launch(100.0)] * 5))
    page = ["page", str(tmp_path / "a.json"), "-o", str(tmp_path / "fleet.html")]
    done = CliRunner().invoke(make_app(), [*page, *arguments])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == (
        f"--budget-ms: expected --fleet and milliseconds above 0, got {arguments[-1]}; give both"
    )
