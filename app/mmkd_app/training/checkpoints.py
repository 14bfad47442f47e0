"""Checkpoints that commands train: locked before, written and reported after."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_app.cli.run import shell_line
from mmkd_app.cli.show import json_text, say
from mmkd_app.training.options import StudentOptions, TrainingOptions, run_dir_of
from mmkd_app.training.tracking import Tracker, tracked
from mmkd_documents.demo import LABELS_ONLY
from mmkd_edge.bundle.manifest import Normal
from mmkd_edge.errors import UsageError
from mmkd_edge.outputs import check_name, lock_output
from mmkd_edge.spec import ModalitySpec
from mmkd_models.metrics.scores import known_score, measure_named
from mmkd_models.train_config import is_first_process

if TYPE_CHECKING:  # --help needs no torch
    import typer
    from torch import nn

    from mmkd_models.train_config import OnStep, TrainingProgress
    from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, TeacherCheckpoint
    from mmkd_models.training.inputs import TrainingRequest


MIN_NORMAL_GROUPS = 19
"""For a rate of 5 % on a new group: the p-value of n groups is at least 1 / (n + 1)."""


def write_committee_and_report(
    output: Path, checkpoint: TeacherCheckpoint, tracker: Tracker, *, following: str, json: bool
) -> None:
    """Write a teacher and print its facts and those of its members."""
    from mmkd_models.training.checkpoint import write_teacher

    if not is_first_process():
        return
    write_teacher(output, checkpoint)
    tracker.record_checkpoint(output, checkpoint.facts, checkpoint.config)
    if checkpoint.committee is None:
        facts, rows = {"facts": checkpoint.facts}, _rows(checkpoint.facts)
        _report(output, checkpoint.modalities, checkpoint.network(), facts, rows, following=following, json=json)
        return
    members, states = checkpoint.committee.members, [checkpoint.state, *checkpoint.further]
    longest = max(len(member.named) for member in members)
    described = [
        {**msgspec.to_builtins(member), "values": sum(tensor.numel() for tensor in state.values())}
        for member, state in zip(members, states, strict=True)
    ]
    rows = {"validation": f"{checkpoint.facts.metric} {checkpoint.facts.score:.3f} of the members together"}
    rows |= {
        f"member {number}": f"{member.named:<{longest}} {checkpoint.facts.metric} {facts['score']:.3f}, weight "
        f"{facts['weight']:.2f}, {facts['values']:,} values"
        for number, (member, facts) in enumerate(zip(members, described, strict=True))
    }
    document = {"facts": checkpoint.facts, "members": described}
    _report(output, checkpoint.modalities, checkpoint.transformer(), document, rows, following=following, json=json)


def write_student_and_report(output: Path, checkpoint: StudentCheckpoint, tracker: Tracker, *, json: bool) -> None:
    """Write a student and print its facts."""
    from mmkd_models.training.checkpoint import write_student

    if not is_first_process():
        return
    write_student(output, checkpoint)
    tracker.record_checkpoint(output, checkpoint.facts, checkpoint.config)
    following = shell_line("mmkd-export", output, "-o", output.with_suffix(".edge"))
    facts = checkpoint.facts
    document = {"facts": msgspec.to_builtins(facts) | {"score": known_score(facts.metric, facts.score)}}
    _report(output, [checkpoint.modality], checkpoint.network(), document, _rows(facts), following=following, json=json)


def normal_rows(normal: Normal) -> dict[str, str]:
    """Return what to expect of normal running on an unseen machine."""
    who, all_of = ("machine", "machines") if normal.groups else ("block of time", "blocks of time")
    of = f"{normal.groups} groups" if normal.groups else "recordings whose blocks of time judged one another"
    above = f"{normal.groups_above:.0%} of {all_of} above {2 * normal.level:.0%}"
    rows = {
        "normal": f"{normal.windows:,} windows of {of}, {normal.hours:.3g} hours",
        "false alarms": f"about {normal.window_rate:.0%} of windows of a new {who}; {above}",
    }
    if not normal.groups:
        rows["no promise"] = (
            "of any rate on another machine or day: record several, and name them in split.group of the recipe; or fit"
            " one machine on the spot with mmkd-edge commission"
        )
    elif normal.groups < MIN_NORMAL_GROUPS:
        rows["no promise"] = (
            f"of a rate below {1 / (normal.groups + 1):.0%} on a new machine: 5% takes {MIN_NORMAL_GROUPS} normal "
            f"groups, and there are {normal.groups}; fit one machine on the spot with mmkd-edge commission"
        )
    return rows


def _rows(facts: Provenance) -> dict[str, str]:
    from mmkd_app.words import for_terminal, teacher_shortfall
    from mmkd_edge.stream.over_time import over_time_text

    if facts.normal:
        score = known_score(facts.metric, facts.score)
        known = {} if score is None else {"validation": f"AUROC {score:.3f} on known faults"}
        return known | normal_rows(facts.normal)
    steps = f" at step {facts.best_step} of {facts.training.steps}" if facts.best_step else ""
    rows = {"validation": f"{facts.metric} {facts.score:.3f}{steps}"}
    if facts.weights:
        rows["weights"] = ", ".join(f"{member} {weight:.3g}" for member, weight in facts.weights.items())
    if facts.over_time:
        rows["over time"] = over_time_text(facts.over_time)
    if facts.shipped:
        tried = ", ".join(f"{trial.name} {trial.valid_score:.3f}" for trial in facts.tried or ())
        rows["shipped"] = f"{facts.shipped} (of {tried})"
    baseline = next((trial.valid_score for trial in facts.tried or () if trial.name == LABELS_ONLY), None)
    shortfall = teacher_shortfall(facts.teacher_score or None, baseline, measure_named(facts.metric))
    return rows | ({"teacher": for_terminal(shortfall.partition(" has ")[2])} if shortfall else {})


def _report(
    output: Path,
    modalities: Sequence[ModalitySpec],
    network: nn.Module,
    facts: Mapping[str, Any],
    rows: Mapping[str, str],
    *,
    following: str,
    json: bool,
) -> None:
    from mmkd_models.networks.student import count_values

    drop_states(output)
    names = [modality.name for modality in modalities]
    parameters = count_values(network)
    if json:
        print(json_text({"checkpoint": str(output), "modalities": names, "parameters": parameters, **facts}))
        return
    folder = run_dir_of(output)
    logs = {"logs": shell_line("tensorboard", "--logdir", folder)} if folder.exists() else {}
    for heading, text in {"modalities": ", ".join(names), "parameters": f"{parameters:,}", **rows, **logs}.items():
        print(f"{heading:<13} {text}")
    print(f"wrote {output}; next: {following}")


def hold_output(
    context: typer.Context,
    output: Path,
    *,
    students: Sequence[Path] = (),
    teachers: Sequence[Path] = (),
    replace: bool = True,
) -> None:
    """Lock the output until the command ends. Raise UsageError if it cannot be written or replaced."""
    if output.is_dir():
        raise UsageError(f"--out {output}: expected the name of a checkpoint, got a directory; name a file in it")
    for whose, files in (("student", students), ("teacher", teachers)):
        if any(output.exists() and file.exists() and output.samefile(file) for file in files):
            raise UsageError(
                f"--out {output}: expected another file than the {whose}'s, got the same; choose another name"
            )
    check_name(output, ".ckpt")
    if output.exists() and not replace:
        raise UsageError(f"{output}: already exists; choose another name, or add --force to replace it")
    if is_first_process():
        context.with_resource(lock_output(output))


def training_tracked(output: Path, options: TrainingOptions) -> AbstractContextManager[Tracker]:
    """Return a training's tracker; delete earlier states unless it resumes."""
    if not options.resume:
        drop_states(output)
    return tracked(options.mlflow, run_dir_of(output), title=output.name, resume=options.resume)


def train_and_report(
    output: Path,
    training: TrainingRequest,
    student: StudentOptions,
    options: TrainingOptions,
    *,
    title: str,
    json: bool,
) -> None:
    """Train a student, or choose one, write it and print its facts."""
    from mmkd_export.targets.native import latency_limit
    from mmkd_models.training.students import RACE, can_learn_alone, train_student

    members, run = training.config.members, training.run
    has_both = training.teachers and can_learn_alone(training.data) and "transformer" in members
    parts = RACE if student.choose and has_both else ("",)
    with training_tracked(output, options) as tracker:
        with training_shown(title, output, tracker, parts=parts) as show:
            run = replace(run, on_step=show, on_member=lambda line: say(f"{title}: {line}"))
            limit, candidates = latency_limit(student.max_latency_ms), members if student.choose else None
            checkpoint = train_student(replace(training, run=run, candidates=candidates, limit=limit))
        write_student_and_report(output, checkpoint, tracker, json=json)


@contextmanager
def training_shown(
    title: str, output: Path, tracker: Tracker | None = None, *, parts: Sequence[str] = ("",)
) -> Iterator[OnStep]:
    """Yield an observer with a progress bar; after Ctrl-C name the option that continues."""
    from mmkd_app.cli.progress import training_bar

    try:
        with training_bar(title, parts) as show:

            def on_step(progress: TrainingProgress) -> None:
                show(progress)
                if tracker is not None:
                    tracker.on_step(progress)

            yield on_step
    except KeyboardInterrupt:
        if any(_states(output)):
            sys.stderr.write("the same command with --resume continues\n")
        raise


def _states(output: Path) -> Iterator[Path]:
    from mmkd_models.training.loop import RESUME_FILE

    return run_dir_of(output).rglob(RESUME_FILE)


def drop_states(output: Path) -> None:
    """Delete resume states; TensorBoard logs stay."""
    if is_first_process():
        for state in list(_states(output)):
            state.unlink()
