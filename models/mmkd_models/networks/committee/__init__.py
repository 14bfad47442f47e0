"""The committee: transformers, and members that are no network, answer together as one teacher. Training side only."""
