"""The program around a predictor: samples from a plant's protocols, decisions to where people read them.

It starts threads, reads clocks, and talks to a network where the user says so.
"""
