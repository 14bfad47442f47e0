"""How a bundle is opened, as one value: commands, stations and benchmarks pass it on whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mmkd_edge.backends.base import MAX_THREADS, BackendName, check_backend
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.predict.arguments import check_choice, check_seconds, check_whole
from mmkd_edge.predict.novelty import check_level
from mmkd_edge.predict.postprocess import Policy
from mmkd_edge.predict.sensors import SensorChecks

Trust = Literal["sandbox", "installed"]
AnyReference = Reference | str | os.PathLike[str]
References = AnyReference | Sequence[AnyReference] | None
Folder = str | os.PathLike[str] | None
if not TYPE_CHECKING:  # a message to another process has paths as text
    References = Folder = Any


class OpenOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of `EdgePredictor.open`, which describes them. Raises UsageError for values outside their range."""

    backend: BackendName | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    threads: int | None = None
    reference: References = None
    policy: Policy = "predict"
    checks: SensorChecks | None = None
    stale_s: float | None = None
    error_level: float | None = None
    unknown_level: float | None = None
    observe_every: int = 16
    selftest: bool = True
    trust: Trust = "sandbox"
    keys: Folder = None

    def __post_init__(self) -> None:
        """Check every value that no bundle decides on."""
        check_backend(self.backend)
        check_choice("precision", self.precision, Literal["auto", "fp32", "fp16", "int8"])
        if self.threads is not None:
            check_whole("threads", self.threads, 1, MAX_THREADS)
        check_choice("policy", self.policy, Policy)
        check_seconds("stale_s", self.stale_s)
        check_level(self.error_level, name="error_level")
        check_level(self.unknown_level, name="unknown_level")
        check_whole("observe_every", self.observe_every, 0, 1 << 30)
        check_choice("trust", self.trust, Trust)

    @property
    def references(self) -> tuple[AnyReference, ...]:
        """One or several references, or none."""
        if self.reference is None:
            return ()
        return (self.reference,) if isinstance(self.reference, Reference | str | os.PathLike) else tuple(self.reference)
