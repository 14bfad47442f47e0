"""What commands share: options, output and progress."""
