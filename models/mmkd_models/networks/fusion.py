"""Cross-attention over modalities: each modality queries the tokens of all the others.

Owns the fusion of the teacher. The scheme is the pairwise cross-modal attention of multimodal transformers (Tsai et
al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019), with the other modalities' tokens
side by side as keys, so that cost grows with the number of modalities and not with its pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmkd_models.networks.config import EncoderConfig
from mmkd_models.networks.dropout import Dropout
from mmkd_models.networks.encoder import Attention, AttentionTap, Tokens, TransformerBlock


@dataclass(frozen=True, kw_only=True)
class CrossTap:
    """What one modality's block of a fusion layer computed on the way: both of its attentions.

    Attributes:
        cross: the modality's tokens query those of the others.
        own: then its tokens query one another.
    """

    cross: AttentionTap
    own: AttentionTap


class CrossBlock(nn.Module):
    """One modality attends to the others, then to itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(config.width)
        self.norm_source = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads, cross=True)
        self.block = TransformerBlock(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, own: Tensor, others: Tensor, own_bias: Tensor, others_bias: Tensor, *, want_map: bool
    ) -> tuple[Tensor, CrossTap | None]:
        """(B, Lq, D) queries and (B, Lk, D) keys -> (B, Lq, D) and both attentions or None."""
        attended, cross = self.cross(self.norm_query(own), self.norm_source(others), others_bias, want_map=want_map)
        some = (others_bias.amax(-1) == 0).to(own.dtype)[:, None, None]  # nothing to attend to: add nothing
        x = own + self.dropout(attended * some)
        x, inner = self.block(x, own_bias, want_map=want_map)
        return x, CrossTap(cross=cross, own=inner) if want_map else None


class FusionLayer(nn.Module):
    """One cross-attention block per modality, all reading the previous layer's tokens."""

    def __init__(self, names: tuple[str, ...], config: EncoderConfig) -> None:
        super().__init__()
        self.names = names
        self.blocks = nn.ModuleDict({name: CrossBlock(config) for name in names})

    def forward(
        self, tokens: Mapping[str, Tokens], *, want_maps: bool
    ) -> tuple[dict[str, Tokens], dict[str, CrossTap]]:
        """Gives the new tokens of every modality, and where wanted its cross-attention and self-attention.

        The map of the cross-attention is (B, H, Lq, sum of the others' Lk).
        """
        fused: dict[str, Tokens] = {}
        taps: dict[str, CrossTap] = {}
        for name in self.names:
            own = tokens[name]
            others = [tokens[other] for other in self.names if other != name]
            keys = torch.cat([other.values for other in others], dim=1)
            bias = torch.cat([other.bias for other in others], dim=1)
            values, tap = self.blocks[name](own.values, keys, own.bias, bias, want_map=want_maps)
            fused[name] = Tokens(values=values, bias=own.bias)
            if tap is not None:
                taps[name] = tap
        return fused, taps
