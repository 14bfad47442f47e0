"""Recipes: which losses teach a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mmkd_documents.study import NONE
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind, TaskSpec
from mmkd_models.defaults import METHOD, METHOD_OF_OTHERS
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import Weight, constant
from mmkd_models.networks.config import choice

Term = TaskTerm | LogitTerm | DkdTerm | DistTerm | EdamTerm | RelationTerm | FeatureTerm | CrdTerm

_KINDS: dict[str, type[Term]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Term)}
_GRAMMAR = """\
--term KIND[,NAME=VALUE...], repeated; one of a kind. Options that are not named have the value shown here; of several
words that are shown the first is the default.

{terms}

weight=2           constant; weight=0.5..0 goes from 0.5 to 0 along a cosine; weight=0.5..0@0.6 arrives after 60 %
layers=2           the last two layers, in order; layers=uniform ties every student layer to a teacher's, spread evenly;
                   layers=0:1+1:3 ties student layer 0 to teacher layer 1 and 1 to 3 (from 0; negative from the end)
vectors=query+key  one or more of query, key and value
member=1           of several teachers: which one edam, relation, feature or crd reads, from 0 in their order

Example: --term task --term logit,temperature=4 --term edam,weight=0.5..0@0.6,layers=uniform"""
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


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of one distillation, at most one of a kind."""

    terms: tuple[Term, ...]


def check_terms(recipe: Recipe, *, kind: TaskKind = "classification") -> None:
    """Raise UsageError for what no network allows, with the limits of each option."""
    names = [term.name for term in recipe.terms]
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"recipe: expected one or more terms of different kinds, got {', '.join(names) or 'none'}; "
            "name each kind once"
        )
    for term in recipe.terms:
        try:
            msgspec.convert(msgspec.to_builtins(term), type(term))
        except msgspec.ValidationError as error:
            raise UsageError(f"recipe: term {term.name!r}: {error}; correct it") from error
        if term.needs_classes and kind != "classification":
            raise UsageError(
                f"recipe: term {term.name!r} compares classes that exclude each other, and {kind} has none; "
                "use term 'logit'"
            )
    weights = [term.weight for term in recipe.terms]
    if not any(weight.start > 0 and (weight.end > 0 or weight.until == 1) for weight in weights):
        raise UsageError(
            "recipe: expected a term whose weight stays above 0 during the whole training, got none; "
            "keep one term on, or let its weight end above 0"
        )


def chosen_recipe(default: Recipe, *, file: Path | None, terms: Sequence[str]) -> Recipe:
    """Return the recipe of a file or of terms, else the default."""
    if file is not None and terms:
        raise UsageError(f"--recipe {file}: expected a recipe or --term, got both; write the terms into the file")
    if file is not None:
        return recipe_from_file(file)
    return Recipe(terms=tuple(term_from_text(text) for text in terms)) if terms else default


def recipe_from_file(path: Path) -> Recipe:
    """Read a JSON recipe."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise UsageError(f"{path}: expected a JSON file with a recipe, {error.strerror}; check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a recipe, {error}; --print-recipe prints one to start from") from error


def term_from_text(text: str) -> Term:
    """Parse a term's short form.

    Example:
        >>> term_from_text("dist,weight=2,gamma=0.5")
        DistTerm(weight=Weight(start=2.0, end=2.0, until=1.0), temperature=1.0, beta=1.0, gamma=0.5)
    """
    kind, *settings = text.split(",")
    if kind not in _KINDS:
        raise _refusal(text, f"expected one of {', '.join(_KINDS)}, got {kind!r}")
    fields: dict[str, Any] = {}
    known = _KINDS[kind].__struct_fields__
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise _refusal(text, f"expected NAME=VALUE with a name of {', '.join(known)}, got {setting!r}")
        fields[name] = _value(name, value, text)
    try:
        return msgspec.convert(fields, _KINDS[kind], strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(text, str(error)) from error


def terms_text() -> str:
    """Return the help of the short form."""
    lines = []
    for kind, term in _KINDS.items():
        defaults, types = term(), get_type_hints(term)
        values = {name: getattr(defaults, name) for name in term.__struct_fields__}
        settings = " ".join(
            f"{name}={_text(value, types[name])}" for name, value in values.items() if value is not msgspec.UNSET
        )
        meaning = (term.__doc__ or "").splitlines()[0].replace("`", "")
        lines.append(f"{kind:<10}{meaning}\n{'':<10}{settings}")
    return _GRAMMAR.format(terms="\n".join(lines))


def _value(name: str, value: str, text: str) -> Any:
    try:
        match name:
            case "weight":
                ends, at, until = value.partition("@")
                start, dots, end = ends.partition("..")
                return Weight(start=float(start), end=float(end if dots else start), until=float(until) if at else 1.0)
            case "layers" if ":" in value:
                return [[int(layer) for layer in pair.split(":")] for pair in value.split("+")]
            case "layers" if value != "uniform":
                return int(value)
            case "vectors":
                return value.split("+")
    except ValueError as error:
        raise _refusal(text, f"{name}: {error}") from error
    return value


def _text(value: Any, kind: Any) -> str:
    if isinstance(value, Weight):
        end = "" if value.end == value.start else f"..{value.end:g}"
        return f"{value.start:g}{end}" + ("" if value.until == 1 else f"@{value.until:g}")
    if isinstance(value, tuple):
        return "+".join(value)
    if get_origin(kind) is Literal:
        return "|".join([value, *(word for word in get_args(kind) if word != value)])
    return str(value)


def _refusal(text: str, problem: str) -> UsageError:
    return UsageError(f"--term {text!r}: {problem}; --list-terms shows them all")


# Methods by name: `kind` or `kind@level`.


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named way to train a student; no recipe for labels only."""

    name: str
    recipe: Recipe | None


def shipped_methods() -> tuple[Method, ...]:
    """Return labels only, and each shipped distillation."""
    taught = (Method(name=name, recipe=Recipe(terms=terms)) for name, terms in _TERMS.items())
    return (Method(name=NONE, recipe=None), *taught)


def taught_by(name: str) -> Recipe:
    """Return a shipped method's recipe."""
    return Recipe(terms=_TERMS[choice(name, tuple(_TERMS), option="--method")])


def default_recipe(task: TaskSpec) -> Recipe:
    """Return the recipe of `mmkd-distill`, with DIST above two classes."""
    several = task.kind == "classification" and len(task.labels) > 2
    return taught_by(METHOD if several else METHOD_OF_OTHERS)


def chosen_methods(names: Sequence[str] | None, recipes: Sequence[str]) -> tuple[Method, ...]:
    """Return labels only and a study's methods: `names`, else all, and `recipes`, each `NAME=FILE.json`."""
    own = []
    for text in recipes:
        name, mark, file = text.partition("=")
        if not (name and mark and file):
            raise UsageError(f"--recipe: expected NAME=FILE.json, got {text!r}; name the method and the file")
        own.append(Method(name=name, recipe=recipe_from_file(Path(file))))
    known = {method.name: method for method in (*shipped_methods(), *own)}
    if names is None:
        return tuple(known.values())
    for name in names:
        if name not in known:
            raise UsageError(f"--method: expected one of {', '.join(known)}, got {name!r}; choose one of them")
    return tuple(known[name] for name in dict.fromkeys([NONE, *names, *(method.name for method in own)]))
