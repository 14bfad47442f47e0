"""The methods that a study compares where the user names none: recipes by name, `kind` or `kind@level`."""

from __future__ import annotations

from mmkd_models.distill import CrdTerm, EdamTerm, LogitTerm, Recipe, TaskTerm, Term, Weight, constant
from mmkd_models.study_plan import NONE, Method

_TASK = TaskTerm(weight=constant(1.0))
_LOGIT = LogitTerm(weight=constant(1.0), temperature=2.0)
_CRD = CrdTerm(weight=constant(0.1))
# Attention teaches where to look first; the outputs decide the end (docs/training.md, Recipes).
_DECAY = Weight(start=0.5, end=0.0, until=0.6)


def shipped_methods() -> tuple[Method, ...]:
    """Gives labels alone, and each kind of distillation alone and in combination."""
    return (
        Method(name=NONE, recipe=None),
        _method("logit", _LOGIT),
        _method("logit+task", _TASK, _LOGIT),
        _method("edam@first", _TASK, _edam(0)),
        _method("edam@last", _TASK, _edam(-1)),
        _method("crd", _TASK, _CRD),
        _method("logit+edam@first", _TASK, _LOGIT, _edam(0)),
        _method("logit+edam@last", _TASK, _LOGIT, _edam(-1)),
        _method("logit+crd", _TASK, _LOGIT, _CRD),
        _method("logit+edam+crd@last", _TASK, _LOGIT, _edam(-1), _CRD),
    )


def _method(name: str, *terms: Term) -> Method:
    return Method(name=name, recipe=Recipe(terms=terms))


def _edam(layer: int) -> EdamTerm:
    return EdamTerm(weight=_DECAY, layers=((layer, layer),))
