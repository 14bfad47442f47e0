"""A recipe as a user writes it: a JSON file, or terms on a command line such as `edam,weight=0.5..0,layers=uniform`.

Owns the short form of a term and the text that teaches it. What the words mean is in `recipe.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.recipe import Recipe, TeacherTrust, Term
from mmkd_models.losses.term import Mix, Weight
from mmkd_models.networks.config import choice

_KINDS: dict[str, type[Term]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Term)}
_GRAMMAR = """\
--term KIND[,NAME=VALUE...], repeated; one of a kind. What is not named has the value shown here; of several words
that are shown it is the first.

{terms}

weight=2           stays; weight=0.5..0 goes from 0.5 to 0 along a cosine; weight=0.5..0@0.6 is there after 60 %
layers=2           the last two layers, in order; layers=uniform ties every student layer to a teacher's, spread evenly;
                   layers=0:1+1:3 ties student layer 0 to teacher layer 1 and 1 to 3 (from 0; negative from the end)
vectors=query+key  some of query, key and value
member=1           of several teachers: which one edam, relation, feature or crd looks into, from 0 in their order

Example: --term task --term logit,temperature=4 --term edam,weight=0.5..0@0.6,layers=uniform"""


def chosen_recipe(
    default: Recipe,
    *,
    file: Path | None,
    terms: Sequence[str],
    trust: str | None,
    init: str | None,
    mix: str | None = None,
) -> Recipe:
    """Gives the recipe of a file, or of terms in the short form, or the default; trust, init and mix replace its own.

    Raises UsageError where both a file and terms are given, or one of them is no recipe.
    """
    if file is not None and terms:
        raise UsageError(f"--recipe {file}: expected a recipe or --term, got both; write the terms into the file")
    recipe = default
    if file is not None:
        recipe = recipe_from_file(file)
    elif terms:
        recipe = Recipe(terms=tuple(term_from_text(text) for text in terms))
    if trust is not None:
        recipe = msgspec.structs.replace(recipe, trust=choice(trust, get_args(TeacherTrust), option="--trust"))
    if init is not None:
        recipe = msgspec.structs.replace(recipe, init=choice(init, ("fresh", "teacher"), option="--init"))
    if mix is not None:
        recipe = msgspec.structs.replace(recipe, mix=choice(mix, get_args(Mix), option="--mix"))
    return recipe


def recipe_from_file(path: Path) -> Recipe:
    """Gives the recipe in a JSON file. Raises UsageError where there is no such file, or no recipe in it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise UsageError(f"{path}: expected a JSON file with a recipe, {error.strerror}; check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a recipe, {error}; --print-recipe prints one to start from") from error


def term_from_text(text: str) -> Term:
    """Gives the term of a short form.

    Raises:
        UsageError: it is none; the message repeats it.

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
    """Gives the kinds of terms, with what each is and what can be set, for people."""
    lines = []
    for kind, term in _KINDS.items():
        defaults = term()
        types = get_type_hints(term)
        values = {name: getattr(defaults, name) for name in term.__struct_fields__}
        shown = {name: value for name, value in values.items() if value is not msgspec.UNSET}
        settings = " ".join(f"{name}={_text(value, types[name])}" for name, value in shown.items())
        meaning = (term.__doc__ or "").splitlines()[0].replace("`", "")
        lines.append(f"{kind:<10}{meaning}\n{'':<10}{settings}")
    return _GRAMMAR.format(terms="\n".join(lines))


def _value(name: str, value: str, text: str) -> Any:
    """The value as JSON would have it; plain numbers and words are left to the conversion."""
    try:
        match name:
            case "weight":
                return _weight(value)
            case "layers" if ":" in value:
                return [[int(layer) for layer in pair.split(":")] for pair in value.split("+")]
            case "layers" if value != "uniform":
                return int(value)
            case "vectors":
                return value.split("+")
    except ValueError as error:
        raise _refusal(text, f"{name}: {error}") from error
    return value


def _weight(value: str) -> Weight:
    ends, at, until = value.partition("@")
    start, dots, end = ends.partition("..")
    return Weight(start=float(start), end=float(end if dots else start), until=float(until) if at else 1.0)


def _text(value: Any, kind: Any) -> str:
    """The value in the short form, and after it the other words that could stand there."""
    if isinstance(value, Weight):
        end = "" if value.end == value.start else f"..{value.end:g}"
        return f"{value.start:g}{end}" + ("" if value.until == 1 else f"@{value.until:g}")
    if isinstance(value, tuple):
        return "+".join(value)
    if get_origin(kind) is Literal:
        return "|".join([value, *(word for word in get_args(kind) if word != value)])
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refusal(text: str, problem: str) -> UsageError:
    return UsageError(f"--term {text!r}: {problem}; --list-terms shows them all")
