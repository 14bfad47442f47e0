"""What a device takes from a dataset: the reference of a group, and recordings as they would come in."""
