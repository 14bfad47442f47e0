"""One file for each page: its sentences, tables and charts."""
