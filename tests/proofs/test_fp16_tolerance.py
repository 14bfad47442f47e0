"""What damages of fp16 weights are seen: counted on the small bundle of the tests, and by hand on one tensor."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from proofs import fp16_tolerance
from proofs.fp16_tolerance import DAMAGES

pytest.importorskip("onnx")


def test_a_tensor_is_damaged_in_three_ways() -> None:
    values = np.arange(1.0, 17.0)
    larger, emptied, moved = (damage(values) for damage in DAMAGES)
    assert larger[0] == pytest.approx(1.1)
    assert emptied[:3].tolist() == [0.0, 0.0, 3.0]
    assert moved[:3].tolist() == [16.0, 1.0, 2.0]


def test_the_narrower_tolerance_sees_more_and_both_see_what_flips_a_label(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fp16_tolerance.py", str(bundle), "--every", "4"])
    fp16_tolerance.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    (runtime, allowed, *ours), (_, stated, *theirs) = [row.strip("| ").split(" | ") for row in rows]
    assert runtime == "runtime"
    assert float(stated) < float(allowed)
    assert ours[0] == theirs[0]
    assert 0 < int(ours[1]) <= int(theirs[1]) <= int(ours[0])
    assert ours[2] == theirs[2]
