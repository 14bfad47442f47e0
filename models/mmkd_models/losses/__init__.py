"""Losses of training: one file each, with its options where a recipe can name it.

Everywhere here: logits are (B, K), of a regression its numbers (B,); no gradient flows into what a teacher says; the
temperature is above 0; `weight` (B,) says how much each window counts, all alike where it is None, and one of weight 0
teaches nothing; `valid` (B, L) is 1 for tokens with samples behind them, else 0, all where it is None.
"""
