"""Mutants with right hashes: a few hundred here, thousands by `benchmarks/checks/mutants.py`."""

import random
from collections import Counter

import pytest

from checks import mutants
from checks.mutations import mutated_bytes, mutated_graph
from mmkd_edge import Bundle, EdgePredictor, GateError, example_bundle, write_bundle
from mmkd_edge.install.graphs import check_graph

COUNT = 300
OPENED = 16


@pytest.fixture(scope="module")
def graph():
    with Bundle.open(example_bundle()) as bundle:
        return bundle.read("acc/model.fp32.onnx")


def test_whatever_is_changed_our_reading_ends_with_a_value_error_or_nothing(graph):
    refused = 0
    for number in range(COUNT):
        mutated = mutated_graph if number % 2 else mutated_bytes
        try:
            check_graph(mutated(graph, random.Random(number)))
        except ValueError:
            refused += 1
    assert COUNT // 3 < refused < COUNT


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
    with pytest.raises(GateError, match="golden window"):
        EdgePredictor.open(tmp_path / "mutant.edge", backend="native")


def test_a_bundle_that_does_not_open_is_no_start(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutants.py", str(example_bundle()), "--backend", "litert"])
    with pytest.raises(SystemExit) as ended:
        mutants.main()
    assert ended.value.code == 2
    assert "mutants.py: error: the bundle itself must open: " in capsys.readouterr().err


def test_a_mutant_may_end_the_process_of_its_sandbox_check(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mutants.outcome_of(example_bundle(), "ort") == "refused: in the sandbox check: it crashed: SIGABRT"


def test_a_mutant_may_end_the_process_that_builds_its_engine(tmp_path, monkeypatch):
    (tmp_path / "tensorrt_rtx.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mutant.edge"
    manifest, members = mutants.with_model(example_bundle(), "onnx", lambda model: model[:100])
    write_bundle(path, manifest=manifest, members=members)
    assert mutants.outcome_of_build(path) == "refused: read by us"
    path.write_bytes(example_bundle().read_bytes())
    assert mutants.outcome_of_build(path) == "refused: in the process of its build: it crashed: SIGABRT"
