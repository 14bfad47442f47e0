"""The page of `mmkd-evaluate --sensors`."""
