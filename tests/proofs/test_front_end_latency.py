"""The proof of what hearing and seeing costs: its interval, and that both ways answer alike."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from proofs import front_end_latency as proof


def test_the_interval_of_a_median_is_two_order_statistics() -> None:
    low, middle, high = proof.median_interval(np.arange(101.0))
    assert (low, middle, high) == (40.0, 50.0, 61.0)


@pytest.mark.slow
def test_both_ways_answer_alike_and_are_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("librosa")
    pytest.importorskip("cv2")
    monkeypatch.setattr(sys, "argv", ["front_end_latency.py", "--seconds", "0.1", "--camera", "120x160"])
    proof.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| sensor | ours with | ours us | rival us | rival / ours | 95 % interval |"
    assert [line.split(" | ")[0] for line in lines[2:-2]][:2] in (["| mic", "| mic"], ["| mic", "| cam"])
    assert lines[-1].startswith("resizing one 120x160 frame to 96 x 96: ")
