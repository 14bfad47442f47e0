"""The page of `mmkd-demo`."""
