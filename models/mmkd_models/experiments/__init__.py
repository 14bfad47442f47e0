"""Experiments: `plan` names combinations, `runs` makes each once in a `folder` that resumes, `workers` side by side.

`study`, `comparison`, `domains` and `sensors` are plans with a document. A run is claimed by a lock in its folder, so
that several commands may share one; the folder alone has state.
"""
