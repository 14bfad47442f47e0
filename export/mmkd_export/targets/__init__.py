"""What an export is for: platforms, engines and files of other formats."""
