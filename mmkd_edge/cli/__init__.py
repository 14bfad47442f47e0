"""What all commands share: running, options, tables and outputs."""
