"""The verified bundle file: writing, opening and its contents."""
