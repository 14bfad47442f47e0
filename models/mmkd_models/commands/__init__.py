"""The commands of the training side, one file each."""
