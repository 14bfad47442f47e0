"""Is an artifact as good as its checkpoint? Windows, parity, gates, confidence, latency."""
