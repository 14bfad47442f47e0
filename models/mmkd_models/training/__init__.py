"""From windows to a checkpoint: the loop, resuming, the trainings, and how validation chooses among them."""
