"""Experiments: a plan of runs, one folder that resumes, workers (processes here, or Ray), and a table.

- `plan`: what is combined, and names that follow from everything that decides a result.
- `runs`: one training or judging each: a teacher, a student, rivals. Its folder's file says that it is done.
- `workers`: makes runs side by side. A run is claimed by a lock in its folder, so that several commands may share one.
- `search`: what Optuna proposes; its study is read from the folder, which alone remembers.
- `study`, `comparison`, `domains`, `sensors`: plans, and the documents made of their runs.

Optuna's storages keep trials and not who trains them, and Ray restarts tasks and not trainings: both work on top of
the folder, and neither holds state of its own.
"""
