"""Backends: what executes an artifact. The protocol, and the one place that opens them.

Every backend takes and gives the same named float32 tensors, whatever engine is behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BackendName = Literal["ort", "litert"]


class Backend(Protocol):
    """An opened artifact. May be shared by threads."""

    @property
    def name(self) -> str:
        """Which backend this is."""
        ...

    @property
    def version(self) -> str:
        """The library behind it, with its version."""
        ...

    @property
    def threads(self) -> int:
        """How many threads one `run` may use."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the opened graph takes, as the engine itself reports it."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the opened graph gives, as the engine itself reports it."""
        ...

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answer for one window.

        Args:
            feeds: `<name>` and `<name>_present`, each float32 (1, T, C).

        Returns:
            Logits and probabilities, each float32 (1, K). They belong to the caller: a later call does not touch them.

        Raises:
            BackendError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give the engine back; more than once is fine."""
        ...


def resolve_backend(name: str) -> BackendName:
    """The backend that `name` stands for on this machine.

    Raises:
        UsageError: there is no backend of that name.
    """
    if name in ("auto", "ort"):
        return "ort"
    if name == "litert":
        return "litert"
    raise UsageError(f"backend {name!r} is unknown; expected 'auto', 'ort' or 'litert'")


def artifact_formats(name: BackendName) -> tuple[str, ...]:
    """Which artifact formats a backend runs."""
    return {"ort": ("onnx",), "litert": ("tflite",)}[name]


def open_backend(name: BackendName, model: bytes, *, threads: int) -> Backend:
    """Open an artifact.

    Args:
        name: the backend.
        model: the artifact's verified bytes.
        threads: how many threads one `run` may use.

    Raises:
        UnavailableError: the backend's library is not installed; the message names the extra.
        BackendError: the engine refuses the artifact.
    """
    if name == "ort":
        from mmkd_edge.backends.ort import OrtBackend

        return OrtBackend(model, threads=threads)
    if name == "litert":
        from mmkd_edge.backends.litert import LitertBackend

        return LitertBackend(model, threads=threads)
    raise UsageError(f"backend {name!r} is unknown; expected 'ort' or 'litert'")
