"""Losses, one file each, with the options that a recipe can set.

Logits are (B, K), of a regression its numbers (B, 1). No gradient flows into a teacher's outputs. `valid` (B, L) is 1
for tokens with samples behind them, else 0; None means all.
"""
