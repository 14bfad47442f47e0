"""What is trained in several ways, of which validation ships one."""
