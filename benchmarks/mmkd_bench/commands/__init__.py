"""The commands of `mmkd-bench`: arguments in, one call, tables and files out."""
