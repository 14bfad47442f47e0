"""The training side of mmkd-edge: teachers, students, distillation, data and evaluation."""
