"""Runs a predictor on live sensors: `mmkd-run` reads a plant's protocols and sends results where people read them."""
