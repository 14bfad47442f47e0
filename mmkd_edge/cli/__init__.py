"""What commands of every package share: how one is run, its help, its tables, where it writes."""
