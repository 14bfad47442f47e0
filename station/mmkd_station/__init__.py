"""The program around a predictor: samples from what a plant speaks, decisions to where they are read, day and night.

The one room of the runtime that starts threads, talks to a network and reads clocks; all of it where the user says so.
"""
