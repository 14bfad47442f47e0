"""What sources and sinks of one protocol share: how the other side is named, and how it is reached."""
