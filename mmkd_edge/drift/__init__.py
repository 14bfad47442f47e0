"""Whether inputs are as in the training: the features of windows, and the verdict on them."""
