"""What is timed in every engine: the former `tiny`, graphs that are kept, and ratios as they are printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.config import student_config
from mmkd_models.networks.student import values_of
from proofs.shipped_engines import Subject, _ratio, converted, former
from proofs.students import untrained

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=200)
SEVEN = TaskSpec(labels=tuple("abcdefg"))


def test_the_former_tiny_is_as_large_as_the_shipped_bundle_says() -> None:
    today = untrained(ACC, SEVEN, student_config("tiny"))
    assert values_of(former(today).network()) == 61_711  # mmkd-inspect mmkd_edge/bundles/watch_acc.edge
    assert values_of(today.network()) > 61_711


def test_a_graph_that_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def graph() -> bytes:
        made.append("once")
        return b"a graph"

    one = Subject(name="one", parameters=1, module=torch.nn.Identity(), onnx=graph, inputs=(), outputs=(), feeds=())
    assert [converted(one, "onnx", tmp_path / "kept") for _ in range(2)] == [b"a graph", b"a graph"]
    assert made == ["once"]


def test_a_ratio_has_its_smallest_and_largest_beside_it() -> None:
    assert _ratio(np.array([1.0, 2.0, 4.0])) == "2.00 (1.00 to 4.00)"
