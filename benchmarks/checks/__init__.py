"""What a release measures and attacks again; README.md lists the scripts. Not in the wheel.

They run from a checkout that `make setup` made ready: `.venv/bin/python benchmarks/checks/NAME.py --help`.
"""
