"""The parts of `mmkd-bench`."""
