"""What a study trains, and who of several processes trains what."""
