"""Networks: `values` (B, T, C) are raw, 0 where missing; `present` (B, T, C) is 1 or 0; of video (B, T, 1)."""
