"""Where samples come from: one file a protocol, and one table of them all."""
