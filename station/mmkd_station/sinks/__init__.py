"""Where records go: one file a protocol, and one table of them all."""
