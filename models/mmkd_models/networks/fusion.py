"""Cross-attention over modalities: each modality queries the tokens of all the others.

Owns the fusion of the teacher. The scheme is the pairwise cross-modal attention of multimodal transformers (Tsai et
al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019), with the other modalities' tokens
side by side as keys, so that cost grows with the number of modalities and not with its pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmkd_models.config import EncoderConfig
from mmkd_models.networks.encoder import Attention, Block, Tokens


class CrossBlock(nn.Module):
    """One modality attends to the others, then to itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(config.width)
        self.norm_source = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads, cross=True)
        self.block = Block(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, own: Tensor, others: Tensor, own_bias: Tensor, others_bias: Tensor, *, want_map: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, Lq, D) queries and (B, Lk, D) keys -> (B, Lq, D) and the cross-attention map (B, H, Lq, Lk) or None."""
        attended, weights = self.cross(self.norm_query(own), self.norm_source(others), others_bias, want_map=want_map)
        some = (others_bias.amax(-1) == 0).to(own.dtype)[:, None, None]  # nothing to attend to: add nothing
        x = own + self.dropout(attended * some)
        x, _ = self.block(x, own_bias, want_map=False)
        return x, weights


class FusionLayer(nn.Module):
    """One cross-attention block per modality, all reading the previous layer's tokens."""

    def __init__(self, names: tuple[str, ...], config: EncoderConfig) -> None:
        super().__init__()
        self.names = names
        self.blocks = nn.ModuleDict({name: CrossBlock(config) for name in names})

    def forward(
        self, tokens: Mapping[str, Tokens], *, want_maps: bool
    ) -> tuple[dict[str, Tokens], dict[str, Tensor | None]]:
        """Gives the new tokens of every modality, and per modality its map (B, H, Lq, sum of the others' Lk)."""
        fused: dict[str, Tokens] = {}
        maps: dict[str, Tensor | None] = {}
        for name in self.names:
            own = tokens[name]
            others = [tokens[other] for other in self.names if other != name]
            keys = torch.cat([other.values for other in others], dim=1)
            bias = torch.cat([other.bias for other in others], dim=1)
            values, maps[name] = self.blocks[name](own.values, keys, own.bias, bias, want_map=want_maps)
            fused[name] = Tokens(values=values, bias=own.bias)
        return fused, maps
