"""What a causal student sees of video: the embedding of each frame and its brightness, as the channels of a series.

A frame is seen beside what changed since the one before. A stream keeps what that one is seen in, its normalised pixels
or small maps of them, and no other frame; before the first one it is missing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.fronts.causal.series import CausalFront
from mmkd_models.networks.fronts.frames import FrameFront


class CausalFrames(nn.Module):
    """Bytes and presence of frames -> a series of embeddings and brightness, one sample for each frame.

    Args:
        frames: what a windowed student sees frames through.
        inner: the front-end behind this one, whose series the embeddings are.

    Attributes:
        before: frames that a frame needs before it.
        state: name and shape of what a stream keeps of the frames: what the last one is seen in, and its presence.
    """

    every_channel: Tensor
    before = 1

    def __init__(self, frames: FrameFront, inner: CausalFront) -> None:
        super().__init__()
        self.frames, self.inner = frames, inner
        self.state = ("picture", (1, 1, frames.seen + 1))
        self.register_buffer("every_channel", torch.ones(1, inner.channels), persistent=False)

    @property
    def mean(self) -> Tensor:
        """Mean of each colour in training."""
        return self.frames.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation of each colour in training."""
        return self.frames.std

    def along(self, values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """A recording from its beginning: (B, N, H, W, C), (B, N, 1) -> series and presence, each (B, N, D + 1)."""
        seen, level = self.frames.look(values, present)
        return self._series(seen, F.pad(seen, (0, 0, 1, 0)), F.pad(present, (0, 0, 1, 0)), level)

    def step(self, values: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same after what the state keeps, and the next state."""
        seen, level = self.frames.look(values, present)
        both = torch.cat([state, torch.cat([seen, present], dim=-1)], dim=1)  # (1, N + 1, V + 1)
        return *self._series(seen, both[..., :-1], both[..., -1:], level), both[:, -1:]

    def _series(self, seen: Tensor, pictures: Tensor, there: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """From frames, and from frames and presence that begin with the one before."""
        present = there[:, 1:]
        found = self.frames.embedded(seen, (seen - pictures[:, :-1]) * (present * there[:, :-1]), present)
        # No expansion of the presence, which devices refuse.
        return torch.cat([found, level * present], dim=-1), present @ self.every_channel


def frame_series(modality: ModalitySpec, values: int) -> ModalitySpec:
    """The series that frames of this camera are: a channel for each value of the embedding, and brightness."""
    names = (*(f"embedding {number}" for number in range(values)), "brightness")
    return ModalitySpec(name=modality.name, channels=names, rate_hz=modality.rate_hz, samples=modality.samples)
