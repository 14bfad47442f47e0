"""The students and the settings of the tests of the runtime."""

from __future__ import annotations

from tests.edge.conftest import (
    _cache_of_one_test,
    acc,
    bundle_path,
    kit,
    openvino_absent,
    trt_absent,
    verdicts,
)

__all__ = ["_cache_of_one_test", "acc", "bundle_path", "kit", "openvino_absent", "trt_absent", "verdicts"]
