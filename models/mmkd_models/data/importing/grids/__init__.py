"""Recordings at the dataset's rates: resampled block by block, kept on disk."""
