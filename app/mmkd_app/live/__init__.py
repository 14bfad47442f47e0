"""The parts of `mmkd-run`."""
