"""From windows to a checkpoint."""
