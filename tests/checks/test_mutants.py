"""Mutants and fuzzed files: a few here, thousands by the checks."""

import contextlib
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from checks import fuzz, mutants
from checks.fuzzing.targets import TARGETS, FuzzTarget, fault_of
from checks.mutations import mutated_bytes, mutated_graph
from mmkd_edge import Bundle, EdgePredictor, GateError, example_bundle
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.errors import DatasetError
from mmkd_edge.install.graphs import check_graph
from mmkd_edge.native import NativeModel
from tests.edge.said import said

COUNT = 120
OPENED = 16


def test_whatever_is_changed_our_reading_ends_with_a_value_error_or_nothing():
    with Bundle.open(example_bundle()) as bundle:
        graph = bundle.read("acc/model.fp32.onnx")
    read = 0
    for number in range(COUNT):
        mutated = mutated_graph if number % 2 else mutated_bytes
        with contextlib.suppress(ValueError):
            check_graph(mutated(graph, random.Random(number)))
            read += 1
    assert 0 < read < COUNT * 2 // 3


@pytest.mark.slow
def test_a_mutant_is_refused_or_answers_as_the_checkpoint_did(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Counter()
    for number in range(OPENED):
        mutants.write_mutant(example_bundle(), tmp_path / "mutant.edge", backend="ort", seed=1, number=number)
        found[mutants.outcome_of(tmp_path / "mutant.edge", "ort")] += 1
    assert [outcome for outcome in found if outcome.startswith("BAD")] == []
    assert len(found) >= 3


@pytest.mark.usefixtures("native_engine")
@pytest.mark.parametrize("number", [117, 321, 335])
def test_a_fault_that_few_golden_windows_show_is_found_at_the_first_opening(number, tmp_path):
    mutants.write_mutant(example_bundle(), tmp_path / "mutant.edge", backend="native", seed=0, number=number)
    assert "golden window" in said(GateError, EdgePredictor.open, tmp_path / "mutant.edge", backend="native")


def test_a_bundle_that_does_not_open_is_no_start(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutants.py", str(example_bundle()), "--backend", "litert"])
    with pytest.raises(SystemExit) as ended:
        mutants.main()
    assert ended.value.code == 2
    assert "mutants.py: error: the bundle itself must open: " in capsys.readouterr().err


def test_a_mutant_may_end_the_process_of_its_sandbox_check_or_that_builds_its_engine(tmp_path, monkeypatch):
    for name in ("onnxruntime", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mutants.outcome_of(example_bundle(), "ort") == "refused: in the sandbox check: it crashed: SIGABRT"
    path = tmp_path / "mutant.edge"
    manifest, members = mutants.with_model(example_bundle(), "onnx", lambda model: model[:100])
    write_bundle(path, manifest=manifest, members=members)
    assert mutants.outcome_of_build(path) == "refused: read by us"
    path.write_bytes(example_bundle().read_bytes())
    assert mutants.outcome_of_build(path) == "refused: in the process of its build: it crashed: SIGABRT"


INPUTS = 60


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name, tmp_path):
    inputs, found = fuzz.fuzz_seeded(name, seconds=60.0, findings=tmp_path, most=INPUTS)
    assert (inputs, found) == (INPUTS, [])


def test_seeds_are_read_and_opened_and_what_breaks_a_reader_is_kept(tmp_path, monkeypatch, native_engine):
    def broken(data, _):
        if len(data) % 2:
            raise KeyError("lost")

    target = FuzzTarget(read=broken, refuses=(ValueError,), seeds=lambda: [b"[1, 2, 3]" * 9])
    monkeypatch.setattr(fuzz, "TARGETS", {"odd": target})
    _, found = fuzz.fuzz_seeded("odd", seconds=10.0, findings=tmp_path, most=50)
    assert found == [str(tmp_path / "odd-KeyError")]
    assert len((tmp_path / "odd-KeyError").read_bytes()) % 2 == 1
    names = "manifest archive signature profile golden graph tflite checkpoint dataset recipe log slots"
    for name in names.split():
        target = TARGETS[name]
        for seed in target.seeds():
            target.read(seed, tmp_path)
            assert fault_of(target, fuzz.mutated(seed, random.Random(0)), tmp_path) is None
    seeds = Path(fuzz.__file__).with_name("fuzzing") / "seeds"
    shapes = {path.name: NativeModel(path.read_bytes()).shape for path in seeds.glob("*.native")}
    names = ("causal", "convolutions", "transformer", "trees")
    assert shapes == dict.fromkeys((f"{name}.native" for name in names), (33, 2))


@pytest.mark.slow
def test_the_c_engine_reads_or_refuses_whatever_it_is_given(native_engine, tmp_path):
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    inputs, found = fuzz.fuzz_native("native", seconds=2.0, findings=tmp_path)
    assert inputs > 4
    assert found == []


def test_without_atheris_the_first_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "atheris", None)
    words = ["fuzz.py", "--minutes", "0.005", "--target", "signature", "--findings", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "atheris is not installed (pip install atheris): seeded mutations take its place"
    assert lines[-1].startswith("| signature | ")


def test_a_recipe_that_is_nested_too_deeply_is_refused(tmp_path):
    told = said(DatasetError, TARGETS["recipe"].read, b"version = " + b"[" * 5_000, tmp_path)
    assert re.search("expected TOML, got .*recursion", told)
