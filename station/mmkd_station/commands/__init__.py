"""The command `mmkd-run`."""
