"""The commands of `mmkd-bench`."""
