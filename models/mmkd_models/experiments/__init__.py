"""Experiments: `plan` names combinations, `runs` makes each once in a `folder`, `workers` side by side.

`study`, `comparison`, `domains` and `sensors` are plans with a document. Locks let several commands share a folder.
"""
