"""From windows to a checkpoint: the loop, what a training resumes from, and the trainings themselves."""
