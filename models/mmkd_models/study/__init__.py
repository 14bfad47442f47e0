"""What a study found: its table, its choice, its documents."""
