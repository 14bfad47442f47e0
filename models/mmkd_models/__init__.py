"""The training side of mmkd-edge: teachers, students, distillation, data and evaluation.

`dataset`, `Teacher`, `distill` and `Student` are the verbs of a notebook, loaded when they are asked for.
"""

TYPE_CHECKING = False  # importing typing takes time

if TYPE_CHECKING:
    from mmkd_models.verbs import Student, Teacher, dataset, distill

__all__ = ["Student", "Teacher", "dataset", "distill"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mmkd_models' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module("mmkd_models.verbs"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
