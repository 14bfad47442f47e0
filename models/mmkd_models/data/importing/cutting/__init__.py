"""Which windows are cut from a recording, with which label and split."""
