import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_bench.compare import read_report
from mmkd_bench.measuring import process
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.run import measure_bundle
from mmkd_documents.bench import Settings
from mmkd_edge.opening.options import OpenOptions
from tests.bench.made import make_launch, make_report, write_report

PROGRAM = "from mmkd_app.commands.bench import main; main()"


def test_the_page_on_benchmarks_lists_every_command(mmkd_bench):
    page = (Path(__file__).parents[3] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^  ([a-z]+)  ", mmkd_bench("--help").stdout.partition("Commands:")[2], re.MULTILINE))
    assert set(re.findall(r"^mmkd-bench (\w+)", page, flags=re.MULTILINE)) == commands


@pytest.fixture
def reports(tmp_path):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_report(before, make_report([make_launch(100.0)] * 5))
    write_report(after, make_report([make_launch(115.0)] * 5))
    return before, after


def test_run_prints_a_table_and_the_next_command(bundle, mmkd_bench):
    ended = mmkd_bench("run", bundle, "--launches", 1, "--duration-s", 0.2, "--no-energy")
    assert ended.returncode == 0, ended.stderr
    for word in ("p50", "p99.9", "check_window", "interpret", "first call", "not measured: not asked for"):
        assert word in ended.stdout
    assert "\x1b[" not in ended.stdout
    assert ended.stderr.splitlines() == [
        "launch 1 of 1: warm-up, then 0.2 s",
        f"next: mmkd-bench run {bundle} -o base.json",
    ]


def test_json_is_one_document_and_a_page_is_of_it(bundle, tmp_path, mmkd_bench):
    kept, page = tmp_path / "kept.json", tmp_path / "run.html"
    options = ("--launches", 1, "--duration-s", 0.2, "--no-energy", "--json", "-o", kept, "--page", page)
    ended = mmkd_bench("run", bundle, *options)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads(kept.read_text())
    assert read_report(kept).result.latency.count > 0
    text = page.read_text(encoding="utf-8")
    assert ("p99.9" in text, str(bundle) in text) == (True, True)
    assert ended.stderr.splitlines()[-1] == f"wrote {kept} and {page}; next: mmkd-bench compare {kept} NEW.json"


def test_ctrl_c_prints_what_there_is_and_exits_130(bundle):
    command = [sys.executable, "-c", PROGRAM, "run", str(bundle), "--duration-s", "100", "--launches", "200", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = [child.stderr.readline(), child.stderr.readline()]
    assert said[1].startswith("launch 2 of 200")  # so one launch is over
    child.send_signal(signal.SIGINT)
    output, rest = child.communicate(timeout=60)
    assert child.returncode == 130, rest
    report = json.loads(output)
    assert report["complete"] is False
    assert 1 <= len(report["launches"]) <= 2
    assert report["result"]["latency"]["count"] > 0
    assert rest.splitlines()[-2:] == ["the report has what was measured until then", "mmkd-bench: interrupted"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{bundle}"),
        ("run", "{bundle}", "--stream", "--hop", "8"),
        ("compare", "{graph}", "{bundle}"),
        ("overhead", "{bundle}"),
        ("compare", "{bundle}", "--rivals"),
        ("capacity", "{bundle}", "--rate", "10"),
        ("tune", "{bundle}"),
    ],
    ids=" ".join,
)
def test_a_bundle_that_fails_verification_is_never_timed(bundle, graph_file, tmp_path, arguments, mmkd_bench):
    damaged = bytearray(bundle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / "damaged.edge"
    path.write_bytes(damaged)
    ended = mmkd_bench(*(argument.format(bundle=path, graph=graph_file) for argument in arguments))
    assert (ended.returncode, ended.stdout) == (6, "")
    assert ended.stderr.splitlines()[-1].startswith(f"mmkd-bench: {path}: the bundle is damaged or changed: ")


def test_compare_exits_5_when_slower_alone(reports, mmkd_bench):
    before, after = reports
    ended = mmkd_bench("compare", before, after)
    assert ended.returncode == 5
    assert "Verdict: slower" in ended.stdout
    assert ended.stderr.startswith("mmkd-bench: the comparison failed: p50 changed by +15.0%")
    assert mmkd_bench("compare", before, before).returncode == 0
    assert mmkd_bench("compare", after, before).returncode == 0
    assert mmkd_bench("compare", before, after, "--fail-if", "").returncode == 0
    assert mmkd_bench("compare", before, after, "--fail-if", "p90>+20%").returncode == 0


def test_two_models_have_a_ratio(slow_bundle, graph_file, mmkd_bench):
    ended = mmkd_bench("compare", graph_file, slow_bundle, "--launches", 1, "--duration-s", 0.2)
    assert ended.returncode == 0, ended.stderr
    assert "over 5 repeats)" in " ".join(ended.stdout.split())
    assert " pairs\n" in ended.stdout


def test_one_thing_alone_is_not_compared(bundle, mmkd_bench):
    message = "mmkd-bench: compare: expected a second report or model, or --rivals; give one of both\n"
    for more in ((), (bundle, "--rivals")):
        assert mmkd_bench("compare", bundle, *more) == (2, "", message)


def test_overhead_is_that_of_predict(bundle, mmkd_bench):
    ended = mmkd_bench("overhead", bundle, "--launches", 1, "--duration-s", 0.2, "--backend", "ort")
    assert ended.returncode == 0, ended.stderr
    assert all(word in ended.stdout for word in ("predict adds", "ort backend.run"))
    ended = mmkd_bench("overhead", bundle, "--backend", "tensorflow")
    assert (ended.returncode, "backend: expected one of 'auto', " in ended.stderr) == (2, True)


def test_rivals_and_extras_that_are_missing_are_named(bundle, mmkd_bench):
    code = "import sys; sys.modules['rich'] = None; " + PROGRAM
    ended = subprocess.run(
        [sys.executable, "-c", code, "run", "x"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr == (
        "mmkd-bench: mmkd-bench needs rich, which this Python lacks; run: pip install 'mmkd-edge[bench]'\n"
    )
    ended = mmkd_bench("compare", bundle, "--rivals", "--launches", 1, "--duration-s", 0.1)
    assert ended.returncode == 0, ended.stderr
    assert "mmkd-edge predict" in ended.stdout
    assert "torch eager: it needs the student's checkpoint; add --checkpoint student.ckpt" in ended.stdout


def ctrl_c_at(start):
    """A progress that meets Ctrl-C when a line begins so."""

    def progress(line):
        if line.startswith(start):
            raise KeyboardInterrupt
        return line

    return progress


@pytest.mark.usefixtures("launched_here")
def test_a_run_keeps_the_launches_that_were_over(bundle):
    choice = Choice(bundle=str(bundle), options=OpenOptions(backend="ort"))
    settings = Settings(launches=4, duration_s=0.4)
    with pytest.raises(Interrupted) as caught:
        measure_bundle(choice, settings, energy=False, progress=ctrl_c_at("launch 2"))
    report = caught.value.report
    assert (report.complete, len(report.launches)) == (False, 1)
    assert report.result.latency.count == report.launches[0].latency.count


def test_a_comparison_that_is_interrupted_prints_nothing_and_exits_130(bundle, mmkd_bench, monkeypatch):
    launches, run = iter([1]), process._run

    def interrupt(*arguments, **options):
        if next(launches, None) is None:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    monkeypatch.setattr(process, "_run", interrupt)
    ended = mmkd_bench("compare", bundle, bundle, "--duration-s", 0.3, "--json")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert [line[:11] for line in ended.stderr.splitlines()] == ["launch 1 of", "launch 2 of", "mmkd-bench:"]


def test_reports_become_one_page(reports, tmp_path, mmkd_bench):
    page = tmp_path / "page.html"
    assert mmkd_bench("page", *reports, "-o", page).returncode == 0
    text = page.read_text(encoding="utf-8")
    assert "has the smallest median, 100\u202fµs, then " in text
    assert len(text) < 1_000_000


def test_what_a_run_cannot_do_is_refused_before_anything_is_measured(bundle, mmkd_bench):
    for options, message in {
        ("--page", "run.txt"): "run.txt: expected a name that ends in .html; only such a file is overwritten",
        ("--hop", "8"): "--hop: expected a stream as well; add --stream",
    }.items():
        assert mmkd_bench("run", bundle, *options) == (2, "", f"mmkd-bench: {message}\n")


def test_the_hop_of_a_stream_is_a_second_where_nobody_says_it(bundle, mmkd_bench):
    ended = mmkd_bench("run", bundle, "--stream", "--launches", 1, "--duration-s", 0.1, "--no-energy")
    assert ended.returncode == 0, ended.stderr
    assert "one call is a hop of 20 samples" in ended.stdout  # of a modality of 20 samples per second
