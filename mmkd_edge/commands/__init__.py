"""The commands of the runtime: arguments in, one call, output."""
