"""An ARM64 machine made of software: its root, and what runs in it."""
