"""Recipe: which loss, at which level, between which layers, with which weight over time.

Owns the words of a recipe file and what can be told wrong in it before any network is there. Computes no loss.
"""

from __future__ import annotations

import math
from typing import Literal, TypeGuard

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskKind


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weight over time: from `start` to `end` along a cosine, reached after the share `until` of the training."""

    start: float
    end: float
    until: float = 1.0

    def at(self, share: float) -> float:
        """Gives the weight after `share` of the training.

        Example:
            >>> decay = Weight(start=0.5, end=0.0, until=0.6)
            >>> decay.at(0.0), round(decay.at(0.3), 3), decay.at(0.9)
            (0.5, 0.25, 0.0)
        """
        done = min(1.0, share / self.until)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))


def constant(value: float) -> Weight:
    """Gives a weight that stays."""
    return Weight(start=value, end=value)


Layers = Literal["uniform"] | int | tuple[tuple[int, int], ...]
"""Which layers learn from which: `uniform`, each student layer from teacher layers spread evenly; a number, the last so
many, in order; or pairs (student, teacher). Layers count from 0, negative ones from the end."""


Member = int | msgspec.UnsetType
"""Which of several teachers a term looks into, from 0 in the order they are named; unset where there is one."""


_USUAL_TEMPERATURE = 2.0


class TaskTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="task"):
    """Cross-entropy against the labels (of a regression Huber's loss), on labelled windows."""

    weight: Weight


class LogitTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="logit"):
    """Kullback-Leibler divergence from the teacher's outputs at `temperature`; `standardise` compares z-scores.

    Of several labels each one's own divergence; of a regression Huber's loss and the correlation over the batch.
    """

    weight: Weight
    temperature: float = _USUAL_TEMPERATURE
    standardise: bool = False


class DkdTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dkd"):
    """The teacher's outputs with the true class (`alpha`) and the others among themselves (`beta`) taught apart."""

    weight: Weight
    temperature: float = 2.0
    alpha: float = 1.0
    beta: float = 2.0


class DistTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dist"):
    """Probabilities that correlate with the teacher's, over classes (`beta`) and over windows (`gamma`)."""

    weight: Weight
    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0


class EdamTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="edam"):
    """The student's self-attention learns the teacher's cross-attention, by the mean head or by groups of heads."""

    weight: Weight
    layers: Layers = 1
    heads: Literal["mean", "group"] = "mean"
    member: Member = msgspec.UNSET


Vectors = Literal["query", "key", "value"]


class RelationTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="relation"):
    """How alike tokens are in queries, keys or values; `teacher` names the attention that teaches, self or cross."""

    weight: Weight
    layers: Layers = 1
    vectors: tuple[Vectors, ...] = ("query", "key", "value")
    heads: int = 8
    teacher: Literal["self", "cross"] = "self"
    member: Member = msgspec.UNSET


class FeatureTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="feature"):
    """Projected hidden states or embedding learn the teacher's; `keep` below 1 learns the lowest frequencies alone."""

    weight: Weight
    level: Literal["hidden", "embedding"] = "hidden"
    layers: Layers = 1
    keep: float = 1.0
    project: bool = True
    member: Member = msgspec.UNSET


class CrdTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="crd"):
    """Contrast of embeddings; negatives come from the batch and a `queue`, from the batch, or from a memory `bank`."""

    weight: Weight
    temperature: float = 0.07
    width: int = 64
    memory: Literal["queue", "batch", "bank"] = "queue"
    queue: int = 1024
    negatives: int = 1024
    momentum: float = 0.5
    member: Member = msgspec.UNSET


Term = TaskTerm | LogitTerm | DkdTerm | DistTerm | EdamTerm | RelationTerm | FeatureTerm | CrdTerm
OutputTerm = LogitTerm | DkdTerm | DistTerm
LayerTerm = EdamTerm | RelationTerm | FeatureTerm
InsideTerm = EdamTerm | RelationTerm | FeatureTerm | CrdTerm
Trust = Literal["none", "label", "confidence"]
Mix = Literal["probabilities", "logits"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one distillation consists of.

    Attributes:
        terms: at most one of a kind.
        trust: how much a window's teacher counts, in all terms but `task`. `none`: always fully. `label`: by its
            probability of the true class; a window without a label fully. `confidence`: the same, and a window
            without a label by the teacher's largest probability.
        init: `teacher` starts the student with the weights of the teacher's own encoder of its modality; of several
            teachers the first one's.
        mix: what is averaged where several teachers teach: their `probabilities`, at a term's own temperature, or their
            `logits`. Unset, it is probabilities; one teacher has nothing to mix.
    """

    terms: tuple[Term, ...]
    trust: Trust = "none"
    init: Literal["fresh", "teacher"] = "fresh"
    mix: Mix | msgspec.UnsetType = msgspec.UNSET


def kind_of(term: Term) -> str:
    """Gives the name of the term in a recipe file."""
    return str(type(term).__struct_config__.tag)


def has_layers(term: Term) -> TypeGuard[LayerTerm]:
    """Says whether the term ties layers; a feature of the embedding has none."""
    return isinstance(term, EdamTerm | RelationTerm) or (isinstance(term, FeatureTerm) and term.level == "hidden")


def looks_inside(term: Term) -> TypeGuard[InsideTerm]:
    """Says whether the term reads what one teacher has inside, which a mean of several does not have."""
    return isinstance(term, EdamTerm | RelationTerm | FeatureTerm | CrdTerm)


def member_of(term: InsideTerm) -> int:
    """Gives the number of the teacher that the term looks into."""
    return 0 if isinstance(term.member, msgspec.UnsetType) else term.member


def part_of(recipe: Recipe, member: int) -> Recipe:
    """Gives the recipe without the terms that look into another teacher."""
    terms = tuple(term for term in recipe.terms if not looks_inside(term) or member_of(term) == member)
    return msgspec.structs.replace(recipe, terms=terms)


def layer_pairs(layers: Layers, *, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Gives the pairs (student layer, teacher layer), counted from 0, for networks of that many layers.

    Uniform spreads the teacher's layers evenly, its last one to the last one: round((l + 1) * teacher / student) - 1.

    Example:
        >>> layer_pairs("uniform", student=2, teacher=4), layer_pairs(2, student=3, teacher=2)
        (((0, 1), (1, 3)), ((1, 0), (2, 1)))
    """
    if layers == "uniform":
        spread = (math.floor((layer + 1) * teacher / student + 0.5) - 1 for layer in range(student))
        return tuple((layer, max(0, at)) for layer, at in enumerate(spread))
    if isinstance(layers, int):
        return tuple((student - back, teacher - back) for back in range(layers, 0, -1))
    return tuple((own % student, other % teacher) for own, other in layers)


def check_recipe(
    recipe: Recipe,
    *,
    student_layers: int,
    teacher_layers: int,
    teacher_blocks: int | None = None,
    classes: int | None = None,
    kind: TaskKind = "classification",
) -> None:
    """Raises UsageError where the terms cannot be computed: repeats, layers that are not there, impossible numbers.

    Args:
        recipe: what is checked.
        student_layers: self-attention blocks of the student.
        teacher_layers: cross-attention layers of the teacher.
        teacher_blocks: layers of the teacher with hidden states and self-attention of the student's modality;
            as many as cross-attention layers where None.
        classes: K, to refuse what cannot teach two classes; not checked where None.
        kind: of the task, to refuse what cannot teach it.
    """
    check_terms(recipe, classes=classes, kind=kind)
    blocks = teacher_layers if teacher_blocks is None else teacher_blocks
    check_layers(recipe, student_layers=student_layers, teacher_layers=teacher_layers, teacher_blocks=blocks)


def check_terms(recipe: Recipe, *, classes: int | None = None, kind: TaskKind = "classification") -> None:
    """Raises UsageError for what is wrong whatever the networks are; arguments as `check_recipe`."""
    kinds = [kind_of(term) for term in recipe.terms]
    if not kinds or len(set(kinds)) != len(kinds):
        raise UsageError(
            f"recipe: expected one or more terms of different kinds, got {', '.join(kinds) or 'none'}; "
            "name each kind once"
        )
    for term in recipe.terms:
        _check_weight(term)
        _check_numbers(term)
        if kind != "classification":
            _check_kind(term, kind)
        elif classes == 2:
            _check_two_classes(term)
    if kind == "regression":
        _check_numbers_only(recipe)
    if not any(_lasts(term.weight) for term in recipe.terms):
        raise UsageError(
            "recipe: expected a term whose weight stays above 0 during the whole training, got none; "
            "keep one term on, or let its weight end above 0"
        )


def check_layers(recipe: Recipe, *, student_layers: int, teacher_layers: int, teacher_blocks: int) -> None:
    """Raises UsageError where terms name layers that are not there; arguments as `check_recipe`."""
    for term in recipe.terms:
        if has_layers(term):
            cross = isinstance(term, EdamTerm) or (isinstance(term, RelationTerm) and term.teacher == "cross")
            theirs = teacher_layers if cross else teacher_blocks
            _check_layers(term, student=student_layers, teacher=theirs, cross=cross)


def _check_weight(term: Term) -> None:
    weight = term.weight
    if not (0 <= weight.start < math.inf and 0 <= weight.end < math.inf and 0 < weight.until <= 1):
        raise UsageError(
            f"recipe: term {kind_of(term)!r}: expected a weight of start >= 0 and end >= 0, reached at 0 < until <= 1, "
            f"got {weight.start}, {weight.end} and {weight.until}; correct it"
        )


def _lasts(weight: Weight) -> bool:
    return weight.start > 0 and (weight.end > 0 or weight.until == 1)


def _check_numbers(term: Term) -> None:
    if isinstance(term, LogitTerm | DkdTerm | DistTerm | CrdTerm) and not 0 < term.temperature < math.inf:
        raise _wrong(term, "a temperature above 0", f"{term.temperature}; correct it")
    match term:
        case DkdTerm() if not _two_weights(term.alpha, term.beta):
            raise _wrong(term, "alpha >= 0 and beta >= 0, one above 0", f"{term.alpha} and {term.beta}; correct them")
        case DistTerm() if not _two_weights(term.beta, term.gamma):
            raise _wrong(term, "beta >= 0 and gamma >= 0, one above 0", f"{term.beta} and {term.gamma}; correct them")
        case RelationTerm() if term.heads < 1 or not term.vectors or len(set(term.vectors)) != len(term.vectors):
            wanted = "heads >= 1 and one or more of query, key and value, each once"
            raise _wrong(term, wanted, f"{term.heads} and {list(term.vectors)}; correct them")
        case FeatureTerm() if not 0 < term.keep <= 1:
            raise _wrong(term, "a share of frequencies to keep above 0 and up to 1", f"{term.keep}; correct it")
        case CrdTerm() if term.width < 1 or term.queue < 0:
            raise _wrong(term, "width >= 1 and queue >= 0", f"{term.width} and {term.queue}; correct them")
        case CrdTerm() if term.negatives < 1 or not 0 <= term.momentum < 1:
            wanted = "negatives >= 1 and a momentum from 0 to below 1"
            raise _wrong(term, wanted, f"{term.negatives} and {term.momentum}; correct them")


def _two_weights(one: float, other: float) -> bool:
    return 0 <= one < math.inf and 0 <= other < math.inf and one + other > 0


def _wrong(term: Term, expected: str, got: str) -> UsageError:
    return UsageError(f"recipe: term {kind_of(term)!r}: expected {expected}, got {got}")


def _check_layers(term: LayerTerm, *, student: int, teacher: int, cross: bool) -> None:
    kind, layers = kind_of(term), term.layers
    of_student, of_teacher = "self-attention", "cross-attention" if cross else "self-attention"
    for who, count, what in (("student", student, of_student), ("teacher", teacher, of_teacher)):
        if count == 0:
            cure = "use a teacher of two or more modalities, or drop the term" if cross else "drop the term"
            raise UsageError(f"recipe: term {kind!r} needs {what} layers of the {who}, which has none; {cure}")
    if layers == "uniform":
        return
    if isinstance(layers, int):
        if not 1 <= layers <= min(student, teacher):
            raise UsageError(
                f"recipe: term {kind!r} ties the last {layers} layers of a student with {student} {of_student} layers "
                f"and a teacher with {teacher} {of_teacher} layers; choose 1 to {min(student, teacher)}"
            )
        return
    if not layers:
        raise _wrong(term, "one or more pairs of layers", "none; name some, a number of last layers, or 'uniform'")
    for own, other in layers:
        for who, layer, count, what in (
            ("student", own, student, of_student),
            ("teacher", other, teacher, of_teacher),
        ):
            if not -count <= layer < count:
                raise UsageError(
                    f"recipe: term {kind!r} names {what} layer {layer} of the {who}, which has {count}; "
                    f"choose {-count} to {count - 1}"
                )


def _check_kind(term: Term, kind: TaskKind) -> None:
    """Refuses what compares classes with each other where there are none."""
    match term:
        case DkdTerm() | DistTerm() | LogitTerm(standardise=True):
            by_logit = isinstance(term, LogitTerm)
            what = f"term {kind_of(term)!r}{' with standardise' if by_logit else ''}"
            cure = "set it to false" if by_logit else "use term 'logit'"
            raise UsageError(f"recipe: {what} compares classes that exclude each other, and {kind} has none; {cure}")
        case LogitTerm(temperature=temperature) if kind == "regression" and temperature != _USUAL_TEMPERATURE:
            raise UsageError(
                f"recipe: term 'logit' has temperature {temperature}, which softens probabilities, and regression has "
                "none; leave it out"
            )


def _check_numbers_only(recipe: Recipe) -> None:
    """Refuses what asks a regression for probabilities."""
    for key, value, asks in (
        ("trust", recipe.trust, recipe.trust != "none"),
        ("mix", recipe.mix, recipe.mix == "probabilities"),
    ):
        if asks:
            raise UsageError(
                f"recipe: {key} {value!r} needs a teacher's probabilities, and regression has none; leave it out"
            )


def _check_two_classes(term: Term) -> None:
    """Refuses what has no gradient at all where there are two classes."""
    match term:
        case LogitTerm(standardise=True):
            raise UsageError(
                "recipe: term 'logit' cannot standardise the outputs of two classes: their z-scores are 0.707 and "
                "-0.707 whatever the network says; set standardise to false"
            )
        case DkdTerm(alpha=0):
            raise UsageError(
                "recipe: term 'dkd' has alpha 0, and with two classes there is one other class, about which beta has "
                "nothing to teach; set alpha above 0"
            )
        case DistTerm(gamma=0):
            raise UsageError(
                "recipe: term 'dist' has gamma 0, and with two classes the correlation over classes is 1 or -1 "
                "whatever the network says; set gamma above 0"
            )
