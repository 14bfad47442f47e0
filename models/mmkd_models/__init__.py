"""The training side of mmkd-edge: teachers, students, distillation, data and evaluation."""

__all__: list[str] = []

_VERBS = ("Student", "Teacher", "dataset", "distill")


def __getattr__(name: str) -> object:
    hint = "; it is in mmkd_app.verbs: import mmkd_app.verbs as mm" if name in _VERBS else ""
    raise AttributeError(f"module 'mmkd_models' has no attribute {name!r}{hint}")
