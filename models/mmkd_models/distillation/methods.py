"""The methods that a study compares where the user names none: recipes by name, `kind` or `kind@level`.

Levels are those of a recipe: which layers learn from which, hidden states or embedding. A method that a pair of
networks cannot have is left out by the study, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.defaults import METHOD, METHOD_OF_OTHERS
from mmkd_models.distillation.method import Method
from mmkd_models.distillation.recipe import Recipe, Term
from mmkd_models.distillation.recipe_text import recipe_from_file
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm
from mmkd_models.losses.decoupled import DkdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.layers import Layers
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Weight, constant
from mmkd_models.networks.config import choice
from mmkd_report.schema.study import NONE

_TASK = TaskTerm(weight=constant(1.0))
_LOGIT = LogitTerm(weight=constant(1.0), temperature=2.0)
_CRD = CrdTerm(weight=constant(0.1))
_RELATION = RelationTerm(weight=constant(1.0))
_HIDDEN = FeatureTerm(weight=constant(1.0))
_FIRST: Layers = ((0, 0),)
_LAST: Layers = 1


def shipped_methods() -> tuple[Method, ...]:
    """Gives labels alone, each kind of distillation at its levels, and the combinations with the teacher's outputs."""
    return (Method(name=NONE, recipe=None), *_outputs(), *_attention(), *_representations(), *_combinations())


def taught_by(name: str) -> Recipe:
    """Gives the recipe of a shipped method that has one. Raises UsageError where there is none of that name."""
    taught = {method.name: method.recipe for method in shipped_methods() if method.recipe is not None}
    return taught[choice(name, tuple(taught), option="--method")]


def default_recipe(task: TaskSpec) -> Recipe:
    """Gives the recipe of `mmkd-distill` where nobody names one.

    DIST correlates probabilities over the classes; of two classes that says nothing but which is larger, and labels
    that do not exclude each other and numbers have no such probabilities.
    """
    several = task.kind == "classification" and len(task.labels) > 2
    return taught_by(METHOD if several else METHOD_OF_OTHERS)


def chosen_methods(names: Sequence[str] | None, recipes: Sequence[str]) -> tuple[Method, ...]:
    """Gives labels alone and the methods of a study: those that are named, else all, and recipes of the user's own.

    Args:
        names: of methods; None for all.
        recipes: `NAME=FILE.json` each.

    Raises UsageError where there is no such method, or no recipe in a file.
    """
    own = [_own_method(text) for text in recipes]
    known = {method.name: method for method in (*shipped_methods(), *own)}
    if names is None:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise UsageError(f"--method: expected one of {', '.join(known)}, got {name!r}; choose one of them")
    return tuple(known[name] for name in dict.fromkeys([NONE, *names, *(method.name for method in own)]))


def _own_method(text: str) -> Method:
    name, mark, file = text.partition("=")
    if not (name and mark and file):
        raise UsageError(f"--recipe: expected NAME=FILE.json, got {text!r}; name the method and the file")
    return Method(name=name, recipe=recipe_from_file(Path(file)))


def _outputs() -> tuple[Method, ...]:
    standardised = LogitTerm(weight=constant(1.0), temperature=2.0, standardise=True)
    return (
        _method("logit", _LOGIT),
        _method("logit+task", _TASK, _LOGIT),
        Method(name="logit+task-trust", recipe=Recipe(terms=(_TASK, _LOGIT), trust="label")),
        _method("logit-standardised", _TASK, standardised),
        _method("dkd", _TASK, DkdTerm(weight=constant(1.0))),
        # weight 2 as in the authors' code (Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022)
        _method("dist", _TASK, DistTerm(weight=constant(2.0))),
    )


def _attention() -> tuple[Method, ...]:
    return (
        _method("edam@first", _TASK, _edam(_FIRST)),
        _method("edam@last", _TASK, _edam(_LAST)),
        _method("edam@uniform", _TASK, _edam("uniform")),
        _method("relation@last", _TASK, _RELATION),
        _method("relation@uniform", _TASK, RelationTerm(weight=constant(1.0), layers="uniform")),
    )


def _representations() -> tuple[Method, ...]:
    return (
        _method("feature@hidden", _TASK, _HIDDEN),
        _method("feature@embedding", _TASK, FeatureTerm(weight=constant(1.0), level="embedding")),
        _method("feature-low@hidden", _TASK, FeatureTerm(weight=constant(1.0), keep=0.25)),
        _method("crd", _TASK, _CRD),
        _method("crd-batch", _TASK, CrdTerm(weight=constant(0.1), memory="batch")),
        _method("crd-bank", _TASK, CrdTerm(weight=constant(0.1), memory="bank")),
    )


def _combinations() -> tuple[Method, ...]:
    return (
        _method("logit+edam@last", _TASK, _LOGIT, _edam(_LAST)),
        _method("logit+relation@last", _TASK, _LOGIT, _RELATION),
        _method("logit+feature@hidden", _TASK, _LOGIT, _HIDDEN),
        _method("logit+crd", _TASK, _LOGIT, _CRD),
        _method("logit+edam+crd@last", _TASK, _LOGIT, _edam(_LAST), _CRD),
    )


def _method(name: str, *terms: Term) -> Method:
    return Method(name=name, recipe=Recipe(terms=terms))


def _edam(layers: Layers) -> EdamTerm:
    # Attention teaches where to look first; the outputs decide the end (docs/losses.md, Recipes).
    return EdamTerm(weight=Weight(start=0.5, end=0.0, until=0.6), layers=layers)
