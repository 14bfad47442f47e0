"""Sources and sinks, one file per protocol."""
