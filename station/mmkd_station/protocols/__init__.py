"""Where samples come from and where records go: one file a protocol, and one table of them all."""
