"""What a converter makes is read as devices read it, before a bundle holds it; no converter is needed for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from mmkd_edge.errors import GateError
from mmkd_export.targets import litert


@pytest.mark.parametrize("graph", ["window", "step"])
def test_a_tflite_that_devices_refuse_ends_the_export(
    graph: Literal["window", "step"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: Sequence[str], **_: object) -> Any:
        Path(command[-2]).write_bytes(b"\x00\x00\x00\x00TFL2")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(litert, "missing_libraries", list)
    monkeypatch.setattr(litert, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(GateError) as refused:
        litert.tflite_from_checkpoint(tmp_path / "student.ckpt", graph=graph)
    assert str(refused.value) == (
        "the .tflite would be refused by every device: the graph has the mark b'TFL2'; expected b'TFL3'; "
        "export without --target litert"
    )
