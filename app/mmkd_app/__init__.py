"""Commands, pages and the verbs of a notebook: what parses arguments, writes to a terminal or draws a page."""
