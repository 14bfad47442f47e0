"""The page of `mmkd-adapt`."""
