"""Inside the measuring process, and how it is started."""
