"""The page of `mmkd-export`."""
