"""The commands of the export side, one file each."""
