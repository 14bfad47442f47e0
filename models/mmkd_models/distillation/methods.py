"""The methods that a study compares: recipes by name, `kind` or `kind@level`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_models.defaults import METHOD, METHOD_OF_OTHERS
from mmkd_models.distillation.recipe import Recipe, Term, recipe_from_file
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.correlation import DistTerm
from mmkd_models.losses.decoupled import DkdTerm
from mmkd_models.losses.features import FeatureTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.relation import RelationTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import choice
from mmkd_report.schema.study import NONE

_TASK, _LOGIT, _CRD = TaskTerm(), LogitTerm(), CrdTerm()
_EDAM, _RELATION, _HIDDEN = EdamTerm(), RelationTerm(), FeatureTerm()
_TERMS: dict[str, tuple[Term, ...]] = {
    "logit": (_LOGIT,),
    "logit+task": (_TASK, _LOGIT),
    "dkd": (_TASK, DkdTerm()),
    # Weight 2 as in the authors' code (Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022).
    "dist": (_TASK, DistTerm(weight=constant(2.0))),
    "edam@first": (_TASK, EdamTerm(layers=((0, 0),))),
    "edam@last": (_TASK, _EDAM),
    "edam@uniform": (_TASK, EdamTerm(layers="uniform")),
    "relation@last": (_TASK, _RELATION),
    "relation@uniform": (_TASK, RelationTerm(layers="uniform")),
    "feature@hidden": (_TASK, _HIDDEN),
    "feature@embedding": (_TASK, FeatureTerm(level="embedding")),
    "crd": (_TASK, _CRD),
    "logit+edam@last": (_TASK, _LOGIT, _EDAM),
    "logit+relation@last": (_TASK, _LOGIT, _RELATION),
    "logit+feature@hidden": (_TASK, _LOGIT, _HIDDEN),
    "logit+crd": (_TASK, _LOGIT, _CRD),
    "logit+edam+crd@last": (_TASK, _LOGIT, _EDAM, _CRD),
}


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named way to train a student; no recipe means labels only."""

    name: str
    recipe: Recipe | None


def shipped_methods() -> tuple[Method, ...]:
    """Return labels only, each kind of distillation at its levels, and the combinations with the teacher's outputs."""
    taught = (Method(name=name, recipe=Recipe(terms=terms)) for name, terms in _TERMS.items())
    return (Method(name=NONE, recipe=None), *taught)


def taught_by(name: str) -> Recipe:
    """Return the recipe of a shipped method. Raises UsageError if there is none of that name."""
    return Recipe(terms=_TERMS[choice(name, tuple(_TERMS), option="--method")])


def default_recipe(task: TaskSpec) -> Recipe:
    """Return the recipe of `mmkd-distill` for a task.

    DIST correlates probabilities over the classes, which says little of two, and nothing of several labels and numbers.
    """
    several = task.kind == "classification" and len(task.labels) > 2
    return taught_by(METHOD if several else METHOD_OF_OTHERS)


def chosen_methods(names: Sequence[str] | None, recipes: Sequence[str]) -> tuple[Method, ...]:
    """Return labels only and the methods of a study: those of `names`, else all, and `recipes`, `NAME=FILE.json` each.

    Raises UsageError if there is no such method, or no recipe in a file.
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
