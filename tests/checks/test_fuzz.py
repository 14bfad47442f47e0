"""Every reader of files that are not trusted, under a few hundred seeded mutations; `make fuzz` takes minutes."""

import random
import shutil
import sys
from pathlib import Path

import pytest

from checks import fuzz
from checks.fuzzing.targets import TARGETS, FuzzTarget, fault_of
from mmkd_edge import DatasetError
from mmkd_edge.native import NativeModel

INPUTS = 120


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
    with pytest.raises(DatasetError, match=r"expected TOML, got .*recursion"):
        TARGETS["recipe"].read(b"version = " + b"[" * 5_000, tmp_path)
