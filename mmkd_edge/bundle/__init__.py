"""One verified file: written, opened, and everything that is read from it."""
