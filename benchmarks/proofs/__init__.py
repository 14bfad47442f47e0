"""The scripts behind docs/results: each measures something once more, and none is in the wheel.

They run from a checkout that `make setup` made ready: `.venv/bin/python benchmarks/proofs/NAME.py --help`.
"""
