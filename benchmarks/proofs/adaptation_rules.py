"""Which gate keeps most of what a teacher's answers are worth and harms fewest: rules judged on the pairs of a proof.

Used by `adaptation_pairs.py --rules`, on what it kept of pairs of rocket students. The teacher's way is taken a
share of the way, and a rule says from what is known without labels whether it may be written. The table has each rule
and share: how many pairs pass, the mean gain over all pairs, and how many are worse by more than a point. Then a rule
and a share are chosen without each source in turn (the highest gain of those that harm at most one pair in twenty), and
its pairs are judged by them: so no threshold is judged on what chose it. Rules:

- closer by k: what `mmkd-adapt` asks: closeness to the teacher's probabilities rises by more than k standard errors,
  nothing is forgotten beyond a standard error, and nothing vanishes (`mmkd_models.adapt.judging`);
- agrees by k: the same of the share of answers that are the teacher's;
- witness: closer by 1.645, and where student and teacher differ the teacher's transformer without the student's sensor
  sides with the teacher more often (errors of other sensors are others: E. Platanios et al., UAI 2014);
- confidence: closer by 1.645, and the teacher is surer than the student (S. Garg et al., ICLR 2022, and their rivals);
- committee: closer by 1.645, and the members agree more with each other than with the student (C. Baek et al., NeurIPS
  2022);
- truth: the true labels of the judging windows say that it is better: what no gate without labels can know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_models.adapt.judging import Court, heard, judged
from mmkd_models.adapt.ways import Task, old_answers, part_way, refitted
from mmkd_models.data.windows import Windows
from mmkd_models.metrics.jackknife import jackknife_error
from mmkd_models.networks.committee.network import Committee
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint
from mmkd_models.training.predict import answers_to, batches_of, logits_of
from mmkd_models.training.teacher_set import TaughtBy
from mmkd_report.documents.adaptation import WayJudgement
from proofs.script import head, row

SHARES = (0.25, 0.5, 0.75, 1.0)
ERRORS = (0.0, 1.0, 1.645, 2.128)  # the last is that of three ways: Bonferroni's correction of 1.645
MOST_HARMED, POINT, MOST_FORGOTTEN = 0.05, 0.01, 1.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The teacher's way, taken a share of the way.

    Attributes:
        agreement_points: what the share of answers that are the teacher's gains, with its standard error.
        truth_points: what right answers to the judging windows gain.
    """

    share: float
    judgement: WayJudgement
    agreement_points: float
    agreement_error: float
    truth_points: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pair without labels, of all its new windows that are no truth.

    Attributes:
        surer_points: mean probability of the teacher's answers less that of the student's.
        witnesses: of the windows where the two differ, those where the teacher without the student's sensor sides with
            it, less those where it sides with the student.
        closer_points: how much more the members agree with each other than with the student.
    """

    surer_points: float
    witnesses: int
    closer_points: float
    steps: list[Step]


@dataclass(frozen=True, kw_only=True)
class JudgedPair:
    """A pair, and what each arm gains on the unseen half, as a fraction."""

    source: str
    evidence: Evidence
    gains: Mapping[str, float]


Rule = Callable[[Evidence, Step], bool]


def _kept(step: Step) -> bool:
    found = step.judgement
    return found.forgotten_points - (found.forgotten_error_points or 0.0) <= MOST_FORGOTTEN and not found.vanished


def _closer(errors: float) -> Rule:
    return lambda _, step: (
        _kept(step) and step.judgement.gain_points > max(0.0, errors * step.judgement.standard_error_points)
    )


def _agrees(errors: float) -> Rule:
    return lambda _, step: _kept(step) and step.agreement_points > max(0.0, errors * step.agreement_error)


RULES: dict[str, Rule] = {
    "no gate": lambda _, __: True,
    **{f"closer by {errors:g}": _closer(errors) for errors in ERRORS},
    **{f"agrees by {errors:g}": _agrees(errors) for errors in ERRORS},
    "witness": lambda known, step: _closer(1.645)(known, step) and known.witnesses > 0,
    "confidence": lambda known, step: _closer(1.645)(known, step) and known.surer_points > 0,
    "committee": lambda known, step: _closer(1.645)(known, step) and known.closer_points > 0,
    "truth": lambda _, step: step.truth_points > 0,
}


def rule_tables(pairs: Sequence[JudgedPair]) -> Iterator[str]:
    """Gives a table of all rules and shares, and of what is chosen without each source, line by line."""
    yield head("rule", *(f"{100 * share:.0f} % of the way: pass, gain, harmed" for share in SHARES))
    for name in RULES:
        cells = []
        for place in range(len(SHARES)):
            gains = np.array([_gain(one, name, place) for one in pairs])
            passed = sum(_passes(one, name, place) for one in pairs)
            cells.append(f"{passed}, {100 * gains.mean():+.1f}, {int((gains < -POINT).sum())}")
        yield row(name, *cells)
    gains, choices = _left_out(pairs)
    yield ""
    yield head("left out", "rule", "share", texts=2)
    for source, choice in choices.items():
        yield row(source, *(("none", "") if choice is None else (choice[0], SHARES[choice[1]])))
    harmed = int((gains < -POINT).sum())
    yield f"\nchosen without the source: gain {100 * gains.mean():+.1f}, harmed {harmed} of {len(gains)}"


def _left_out(pairs: Sequence[JudgedPair]) -> tuple[NDArray[np.float64], dict[str, tuple[str, int] | None]]:
    choices: dict[str, tuple[str, int] | None] = {}
    gains = []
    for source in dict.fromkeys(one.source for one in pairs):
        others = [one for one in pairs if one.source != source]
        choices[source] = best = _best(others)
        mine = [one for one in pairs if one.source == source]
        gains += [0.0 if best is None else _gain(one, *best) for one in mine]
    return np.array(gains), choices


def _best(pairs: Sequence[JudgedPair]) -> tuple[str, int] | None:
    """The rule and the share with the highest gain, of those that harm few; `truth` is none that one can have."""
    found: dict[tuple[str, int], float] = {}
    for name in RULES:
        for place in range(len(SHARES)):
            gains = np.array([_gain(one, name, place) for one in pairs])
            if name != "truth" and (gains < -POINT).mean() <= MOST_HARMED:
                found[name, place] = float(gains.mean())
    return max(found, key=lambda one: found[one], default=None)


def _passes(pair: JudgedPair, name: str, place: int) -> bool:
    return RULES[name](pair.evidence, pair.evidence.steps[place])


def _gain(pair: JudgedPair, name: str, place: int) -> float:
    """What balanced accuracy on the unseen half gains: nothing where the rule lets nothing pass."""
    return pair.gains[step_arm(SHARES[place])] if _passes(pair, name, place) else 0.0


def step_arm(share: float) -> str:
    """Gives the name of an arm that goes a share of the way."""
    return f"teacher, {100 * share:.0f} %"


def steps_of(base: Task, court: Court) -> tuple[list[Step], dict[str, StudentCheckpoint]]:
    """Gives the teacher's way of a regression by shares, judged, and the student of each by the name of its arm."""
    assert base.answers is not None
    parts = [(base.new.learn, base.answers), (base.old.learn, old_answers(base))]
    before, whole = heard(court, base.student), refitted(base.student, parts)
    assert court.right is not None
    steps: list[Step] = []
    students: dict[str, StudentCheckpoint] = {}
    for share in SHARES:
        student = part_way(base.student, whole, share)
        after = heard(court, student)
        agreed = _gains(before.answers, after.answers, court.right)
        steps.append(
            Step(
                share=share,
                judgement=judged(court, "teacher", before, after, seconds=0.0),
                agreement_points=float(agreed.mean()),
                agreement_error=_error(agreed, court.new),
                truth_points=float(_gains(before.answers, after.answers, court.new.labels).mean()),
            )
        )
        students[step_arm(share)] = student
    return steps, students


def _gains(before: NDArray[np.int64], after: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(100 * ((after == right).astype(np.float64) - (before == right)))


def _error(gains: NDArray[np.float64], windows: Windows) -> float:
    return jackknife_error(lambda rows: float(gains[rows].mean()), windows.groups, fewest_groups=5)


def evidence_of(base: Task, teacher: TaughtBy, windows: Windows, steps: list[Step]) -> Evidence:
    """Gives what is known of these new windows, of all sensors, without their labels."""
    assert isinstance(teacher.checkpoint, TeacherCheckpoint)
    sensor, committee = base.student.modality.name, teacher.checkpoint.network().eval()
    assert isinstance(committee, Committee)
    said = logits_of(base.student.network(), windows, modality=sensor)
    taught = logits_of(committee, windows, modality=None)
    own, theirs = said.argmax(axis=1), taught.argmax(axis=1)
    without, members = (
        _without(committee, windows, sensor),
        [
            committee.calibrated(number, answers_to(one, windows)).numpy().argmax(axis=1)
            for number, one in enumerate(committee.members)
        ],
    )
    differ = own != theirs
    between = [np.mean(one == other) for place, one in enumerate(members) for other in members[:place]]
    return Evidence(
        surer_points=100 * (_sureness(taught) - _sureness(said)),
        witnesses=int((without[differ] == theirs[differ]).sum() - (without[differ] == own[differ]).sum()),
        closer_points=100 * float(np.mean(between) - np.mean([np.mean(one == own) for one in members])),
        steps=steps,
    )


def _sureness(logits: NDArray[np.float32]) -> float:
    return float(torch.softmax(torch.from_numpy(logits).double(), -1).amax(1).mean())


@torch.no_grad()
def _without(committee: Committee, windows: Windows, sensor: str) -> NDArray[np.int64]:
    """(N,) what the first transformer answers where the sensor is missing."""
    found = []
    for inputs in batches_of(windows):
        values, present = inputs[sensor]
        inputs[sensor] = torch.zeros_like(values), torch.zeros_like(present)
        found.append(committee.first(inputs).logits.argmax(1).numpy())
    return np.concatenate(found)
