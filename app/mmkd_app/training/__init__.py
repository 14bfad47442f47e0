"""What commands share that import data and train."""
