"""One checkpoint judged on one dataset, alone or compared with another of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.gains import gain_on_windows
from mmkd_models.evaluation.guessing import guessing
from mmkd_models.evaluation.missing import MISSING_SHARES, Loss, logits_by_missing_share, logits_by_subset
from mmkd_models.evaluation.outcome import class_scores, outcome_on
from mmkd_models.evaluation.seen import cautions_of
from mmkd_models.metrics.classes import Metric
from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.compatible import check_compatible
from mmkd_models.training.predict import logits_of
from mmkd_report.schema.evaluation import (
    DataFacts,
    EvaluationDocument,
    Judgement,
    ModelFacts,
    SeenWindows,
    ShareJudgement,
    SubsetJudgement,
)

Checkpoint = StudentCheckpoint | TeacherCheckpoint
Logits = NDArray[np.float32]
Key = TypeVar("Key")
OnPart = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A checkpoint, its file, and the windows that it knows."""

    path: str
    sha256: str
    checkpoint: Checkpoint
    seen: SeenWindows | None = None

    def cautions(self, data: DataFacts) -> tuple[str, ...]:
        """Return the cautions about its scores on these windows."""
        trained_on = self.checkpoint.facts.dataset_sha256
        return tuple(cautions_of(self.path, trained_on, self.seen, data.sha256, data.windows))

    @property
    def modality(self) -> str | None:
        """The student's; None for a teacher."""
        return self.checkpoint.modality.name if isinstance(self.checkpoint, StudentCheckpoint) else None

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """All modalities, in the model's order."""
        checkpoint = self.checkpoint
        return (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities


def evaluate(
    model: Contestant,
    windows: Windows,
    *,
    against: Contestant | None,
    data: DataFacts,
    metric: Metric,
    missing: bool,
    seed: int,
    on_part: OnPart,
) -> EvaluationDocument:
    """Judge a model, alone or compared with another.

    Raises UsageError if a model does not accept these windows, or the two are not of one kind.
    """
    check_contestants(model, against, windows)
    judge = _Judge(windows=windows, metric=metric, seed=seed)
    pair = [model] if against is None else [model, against]
    on_part("everything there")
    complete = judge.judgement(*(logits_from(one, windows) for one in pair))
    report = EvaluationDocument(
        model=_facts(model),
        against=None if against is None else _facts(against),
        data=data,
        metric=metric,
        seed=seed,
        complete=complete,
        cautions=tuple(dict.fromkeys(text for one in pair for text in one.cautions(data))),
    )
    if not missing:
        return report
    subsets: tuple[SubsetJudgement, ...] = ()
    if model.modality is None:
        on_part("subsets of modalities")
        subsets = _subsets(judge, pair)
    shares: dict[Loss, tuple[ShareJudgement, ...]] = {}
    losses: tuple[tuple[Loss, str], ...] = (("samples", "missing samples"), ("burst", "bursts"))
    for loss, name in losses:
        on_part(name)
        shares[loss] = _shares(judge, pair, loss)
    return msgspec.structs.replace(report, subsets=subsets, samples=shares["samples"], bursts=shares["burst"])


def check_contestants(model: Contestant, against: Contestant | None, windows: Windows) -> None:
    """Raise UsageError if a model does not accept these windows, or the two are not of one kind."""
    for one in (model, against):
        if one is not None:
            checkpoint = one.checkpoint
            is_student = isinstance(checkpoint, StudentCheckpoint)
            modalities = (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities
            who = f"{one.path}: {'student' if is_student else 'teacher'}"
            check_compatible(who, checkpoint.task, modalities, windows)
    if against is not None and (model.modality is None) != (against.modality is None):
        kinds = ["teacher" if one.modality is None else "student" for one in (model, against)]
        raise UsageError(
            f"--against {against.path}: expected a {kinds[0]} like {model.path}, got a {kinds[1]}; "
            "compare a student with a student, a teacher with a teacher"
        )


def logits_from(one: Contestant, windows: Windows) -> Logits:
    """Return the model's logits (N, K) for the windows; for regression (N, 1) in the target's unit."""
    return logits_of(one.checkpoint.network(), _narrowed(one, windows), modality=one.modality)


def _narrowed(one: Contestant, windows: Windows) -> Windows:
    """The windows with the model's modalities, in its order."""
    checkpoint = one.checkpoint
    if isinstance(checkpoint, StudentCheckpoint):
        return windows.with_modalities([checkpoint.modality.name])
    return windows.with_modalities([spec.name for spec in checkpoint.modalities])


def _subsets(judge: _Judge, pair: list[Contestant]) -> tuple[SubsetJudgement, ...]:
    """Every subset of the model's modalities; one that the other teacher lacks is judged alone."""
    found = []
    for one in pair:
        network = one.checkpoint.network()
        assert isinstance(network, Teacher | Committee)  # `evaluate` asks for subsets of teachers alone
        found.append(logits_by_subset(network, _narrowed(one, judge.windows)))
    judged = [(subset, judge.judgement(*given)) for subset, given in _shared(found)]
    return tuple(
        SubsetJudgement(modalities=subset, scores=one.scores, against=one.against, gain=one.gain, guessing=one.guessing)
        for subset, one in judged
    )


def _shares(judge: _Judge, pair: list[Contestant], loss: Loss) -> tuple[ShareJudgement, ...]:
    found = [
        logits_by_missing_share(
            one.checkpoint.network(),
            _narrowed(one, judge.windows),
            modality=one.modality,
            seed=judge.seed,
            shares=MISSING_SHARES,
            loss=loss,
        )
        for one in pair
    ]
    judged = [(share, judge.judgement(*given)) for share, given in _shared(found)]
    return tuple(
        ShareJudgement(share=share, scores=one.scores, against=one.against, gain=one.gain, guessing=one.guessing)
        for share, one in judged
    )


def _shared(found: list[dict[Key, Logits]]) -> list[tuple[Key, list[Logits]]]:
    """The conditions of the first, with the logits of all that have them."""
    return [(key, [logits[key] for logits in found if key in logits]) for key in found[0]]


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Scores logits for the windows, and compares two of them."""

    windows: Windows
    metric: Metric
    seed: int

    def judgement(self, ours: Logits, theirs: Logits | None = None) -> Judgement:
        """Judge logits, alone or compared with others."""
        judged = outcome_on(self.windows, ours)
        beside = guessing([judged], self.metric, seed=self.seed)
        if theirs is None:
            return Judgement(scores=class_scores(judged), guessing=beside)
        other = outcome_on(self.windows, theirs)
        gain = gain_on_windows(judged, other, self.metric, seed=self.seed)
        return Judgement(scores=class_scores(judged), against=class_scores(other), gain=gain, guessing=beside)


def _facts(one: Contestant) -> ModelFacts:
    checkpoint = one.checkpoint
    is_student = isinstance(checkpoint, StudentCheckpoint)
    modalities = (checkpoint.modality,) if isinstance(checkpoint, StudentCheckpoint) else checkpoint.modalities
    facts = checkpoint.facts
    return ModelFacts(
        path=one.path,
        sha256=one.sha256,
        kind="student" if is_student else "teacher",
        modalities=tuple(spec.name for spec in modalities),
        parameters=sum(parameter.numel() for parameter in checkpoint.network().parameters()),
        dataset_sha256=facts.dataset_sha256,
        distilled=facts.teacher_sha256 is not None,
        span_dropout=facts.augment.span_dropout,
        channel_dropout=facts.augment.channel_dropout,
        modality_dropout=0.0 if isinstance(checkpoint, StudentCheckpoint) else checkpoint.config.modality_dropout,
        seen=one.seen,
    )
