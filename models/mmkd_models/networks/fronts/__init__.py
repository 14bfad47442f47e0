"""What networks see of samples: causal, long and spectral views."""
