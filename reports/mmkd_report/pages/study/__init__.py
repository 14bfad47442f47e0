"""The page of `mmkd-study`."""
