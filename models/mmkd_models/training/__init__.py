"""From windows to a checkpoint: the loop, resuming, the trainings, and validation's choices."""
