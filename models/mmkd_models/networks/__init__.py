"""Networks: teacher, student, and what both are made of.

Everywhere here: `values` (B, T, C) are raw, 0 where missing, and `present` (B, T, C) is 1 or 0.
"""
