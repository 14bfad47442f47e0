"""What networks see of samples, kind by kind."""
