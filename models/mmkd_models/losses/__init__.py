"""Losses, with their recipe options.

Logits are (B, K), of a regression (B, 1). No gradient flows into teachers. `valid` (B, L) is 1 for tokens with samples,
else 0; None means all.
"""
