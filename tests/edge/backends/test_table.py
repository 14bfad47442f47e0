"""The one table of backends: complete, and what everybody asks it."""

from __future__ import annotations

from typing import get_args

import pytest

from mmkd_edge import ModalitySpec, UsageError
from mmkd_edge.backends.base import (
    AUTO_ORDER,
    BACKENDS,
    BackendName,
    backend_for,
    check_backend,
    choose_artifact,
    open_backend,
)
from mmkd_edge.testing import fake_entry

ACC = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=20)


def test_every_backend_has_a_row_and_a_place_in_the_order() -> None:
    assert tuple(BACKENDS) == get_args(BackendName)
    assert sorted(AUTO_ORDER) == sorted(BACKENDS)


def test_artifacts_are_judged_by_the_first_backend_of_their_format() -> None:
    assert (backend_for("onnx"), backend_for("tflite")) == ("ort", "litert")


def test_an_unknown_backend_names_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        check_backend("onnx")
    assert str(caught.value) == (
        "backend 'onnx' is unknown; expected 'auto', 'native', 'ort', 'openvino', 'litert' or 'trt'"
    )
    with pytest.raises(UsageError) as opened:
        open_backend("onnx", b"", threads=1)  # type: ignore[arg-type]
    assert str(opened.value) == (
        "backend 'onnx' is unknown; expected one of 'native', 'ort', 'openvino', 'litert', 'trt'"
    )


def test_bf16_runs_the_fp32_artifact_where_a_backend_computes_in_it() -> None:
    entry = fake_entry(modality=ACC, labels=("ok", "worn"))
    assert choose_artifact(entry, "bf16", "openvino") is entry.artifacts[0]
    with pytest.raises(UsageError) as caught:
        choose_artifact(entry, "bf16", "trt")
    assert str(caught.value) == "backend 'trt' does not compute in 'bf16'; only 'openvino' does"
