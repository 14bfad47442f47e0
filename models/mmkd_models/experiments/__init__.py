"""Experiments: a plan of runs, one folder that resumes, workers (processes here, or Ray), and a table.

- `plan`: what is combined, and folder names that follow from everything that decides a result.
- `folder`: the windows of a fold, and `result.json`, the one result of a teacher, student or rival. It ends a run.
- `runs`: makes them. A run is claimed by a lock in its folder, so that several commands may share one.
- `workers`, `progress`: jobs side by side, and the time that is left.
- `search`: Optuna's proposals. Its study is made from the folder, which alone has state; Ray has none either.
- `study` (with `prepare` and `table`), `comparison` (with `summary`), `domains`, `sensors`: plans and their documents.
"""
