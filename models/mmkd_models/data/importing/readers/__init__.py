"""Files of recordings, given out block by block as tables."""
