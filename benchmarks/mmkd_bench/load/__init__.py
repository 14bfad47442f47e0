"""Many streams at once: the load, the search for the largest that is carried, and the verdict of fresh processes."""
