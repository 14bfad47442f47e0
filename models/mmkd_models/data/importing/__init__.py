"""Import of recordings into dataset directories."""
