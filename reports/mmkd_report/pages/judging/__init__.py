"""The page of `mmkd-evaluate --suite`."""
