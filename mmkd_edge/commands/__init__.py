"""The runtime's commands: arguments in, one call, output."""
