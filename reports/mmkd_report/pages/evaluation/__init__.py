"""The page of `mmkd-evaluate`."""
