"""The sizes that a checkpoint claims, held against what is in the file, before any network is built from them.

A file of kilobytes can claim a width of 48 million: building that network first and comparing its tensors then would
take all memory. Owns the bounds of what is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mmkd_edge.bundle.manifest import MAX_LABELS, MAX_WINDOW_VALUES
from mmkd_edge.errors import CheckpointError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.networks.config import EncoderConfig, RocketConfig
from mmkd_models.networks.rocket import claims_of

_MOST_MODALITIES = 64
_MOST_WHOLE_SAMPLES = 1 << 14
"""Of a window that is taken whole: its spectrum is a matrix of samples x samples, here of 1 GiB."""
_MOST_FRAMES = 1 << 14
"""Of a window of video: which token a frame belongs to is a matrix of frames x tokens."""
_LARGEST = {"spectrum_bands": 1 << 12, "most_tokens": 1 << 14, "frame": 1 << 14, "feedforward_ratio": 64}


def check_bounds(
    modalities: Sequence[ModalitySpec],
    task: TaskSpec,
    encoder: EncoderConfig | None,
    state: Mapping[str, Tensor],
    *,
    path: Path,
    fusion_depth: int = 0,
    rocket: RocketConfig | None = None,
) -> None:
    """Refuse sizes that the tensors of the file cannot have, or that no machine builds.

    Args:
        modalities: what the network takes.
        task: what it answers.
        encoder: the size of each of its encoders; None of a network that has none.
        state: its tensors.
        path: of the file, for the message.
        fusion_depth: further layers of a teacher.
        rocket: its convolutional features; None of a network that has none.

    Raises:
        CheckpointError: a size is beyond them.
    """
    values = sum(tensor.numel() for tensor in state.values())
    claims = {
        "modalities": (len(modalities), _MOST_MODALITIES),
        "labels": (len(task.labels), MAX_LABELS),
        **{f"{m.name}: values of a window": (math.prod(m.shape), MAX_WINDOW_VALUES) for m in modalities},
        **({} if encoder is None else _of_encoders(encoder, modalities, state, values, fusion_depth)),
        **({} if rocket is None else {"features": (rocket.features, values)}),
        **({} if rocket is None else claims_of(rocket, modalities[0])),
    }
    for name, (claimed, most) in claims.items():
        if claimed > most:
            raise CheckpointError(
                f"{path}: metadata: {name}: expected at most {most}, got {claimed}; the file was altered"
            )


def _of_encoders(
    encoder: EncoderConfig,
    modalities: Sequence[ModalitySpec],
    state: Mapping[str, Tensor],
    values: int,
    fusion_depth: int,
) -> dict[str, tuple[int, int]]:
    # Queries, keys, values and what joins them: 4 x D x D values in each layer of each encoder.
    layers = encoder.depth * len(modalities) + fusion_depth
    return {
        "layers": (layers, len(state)),
        "values in attention": (4 * layers * encoder.width**2, values),
        **{name: (getattr(encoder, name) or 0, most) for name, most in _LARGEST.items()},
        **{
            f"{m.name}: samples": (m.samples, _MOST_WHOLE_SAMPLES)
            for m in modalities
            if encoder.frame is None and m.kind == "series"
        },
        **{f"{m.name}: frames": (m.samples, _MOST_FRAMES) for m in modalities if m.kind == "video"},
    }
