"""What validation says of trained networks: how far classes are evened out, and which of several answers is better."""
