"""The page of `mmkd-data report`."""
