"""What reads files that nobody vouches for, given what nobody has thought of."""
