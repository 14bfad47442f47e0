"""Sources and sinks: one file per protocol, and a table."""
