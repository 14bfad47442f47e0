"""Things called in turn in one process, so that the machine's mood is taken out."""
