"""From windows to a checkpoint: loop, resuming, trainings, and validation's choices."""
