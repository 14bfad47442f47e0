"""The model card, `README.md` of a bundle."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_documents.export import ExportReport
from mmkd_edge.bundle.manifest import ModelEntry, adapted_text
from mmkd_edge.errors import printable
from mmkd_edge.predict.novelty import magnitude_text, normal_text, novelty_text
from mmkd_edge.spec import ModalitySpec, task_text
from mmkd_edge.stream.over_time import over_time_text
from mmkd_export.verify.gate import MIN_JUDGING
from mmkd_models.evaluation.confidence import SAME_GROUPS, reliability_text

SYNTHETIC = (
    "synthetic windows show that the graph computes what the network computes, and nothing of what it does on "
    "recordings; name some with --calib DATA"
)
NO_RECORDING = (
    "the bundle carries no recording: its golden windows were drawn from the channel statistics of the training data; "
    "a device's self-test shows that it computes the same, on windows unlike those of its sensor"
)


def model_card(report: ExportReport, entry: ModelEntry, *, licence: str) -> str:
    """Return the card as Markdown."""
    parts = (
        _input(report, entry),
        _measurements(report),
        _artifacts(report),
        _confidence(report, entry),
        _origin(report, entry, licence),
    )
    # No name of the checkpoint is HTML, a link, an image or another line.
    lines = [printable(line) for part in parts for line in (*part, "")]
    return "\n".join(line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]&#40;") for line in lines)


def _input(report: ExportReport, entry: ModelEntry) -> Iterator[str]:
    task, modality, student = entry.task, entry.modality, report.student
    names = ", ".join(task.labels)
    answer = {
        "classification": f"one of {len(task.labels)} classes: {names}",
        "multi_label": f"any of {len(task.labels)} labels, each on from a probability of {task.on_from:g}: {names}",
        "regression": f"a number, the {task_text(task)}",
        "normal": "a score, how far a window is from normal running",
    }[task.kind]
    reason = f" ({report.range_rule})" if report.range_rule else ""
    is_relative = modality.normalise == "per_group"
    reference = ', reference="reference.json"' if is_relative else ""
    outputs = " and ".join(f"`{tensor.name}`" for tensor in entry.outputs[:2])
    novelty = ", and `novelty` (1, 1)" if entry.has_novelty else ""
    values, present = (f"`{tensor.name}` {tensor.dtype} {tensor.shape}" for tensor in entry.inputs)
    yield f"# {report.model_id}"
    yield ""
    yield f"A student that reads one sensor, `{modality.name}`, and answers with {answer}."
    yield f"{student.parameters:,} parameters ({student.preset}), {student.mflops:.2f} million operations a window."
    if report.twin_text:
        yield report.twin_text
    yield from ("", "## Input", "", _window(modality))
    if modality.derived:
        recorded = modality.recorded
        yield (
            f"This sensor is `{modality.title}`, derived from `{recorded.name}`. A device may have it, or derive it "
            f'from `{{"{recorded.name}": window}}`, {recorded.shape} at {recorded.rate_hz:g} Hz, as training did.'
        )
    if modality.parts:
        pairs = ", ".join(f'"{part.name}": {part.name}' for part in modality.parts)
        yield (
            f"These are {len(modality.parts)} sensors, `{modality.title}`: pass `{{{pairs}}}`, None where one is "
            "missing, or their channels side by side. The windows that judged it lack each of them in turn."
        )
    if modality.range is not None:
        yield f"A value outside {modality.range[0]:g} to {modality.range[1]:g} counts as missing{reason}."
    if is_relative:
        yield "Raw values are comparable only within one group: open it with a reference of `mmkd-data reference`."
    yield (
        f"The graph takes {values} (missing values as 0) and {present} (1 or 0), and returns {outputs}, both "
        f"(1, {task.outputs}){novelty}."
    )
    yield from f"""
## How to use it

```python
from mmkd_edge import EdgePredictor

with EdgePredictor.open("student.edge"{reference}) as predictor:
    print(predictor.predict(window))  # window: array {modality.shape}
```

`mmkd-bench run student.edge` measures its latency; `predictor.selftest()` checks that a machine computes the answers
that are stored in the bundle.""".split("\n")


def _window(modality: ModalitySpec) -> str:
    length = f"({modality.duration_s:g} s at {modality.rate_hz:g} Hz)"
    channels = f"{len(modality.channels)} channels ({', '.join(modality.channels)})"
    samples, unit = modality.samples, f" in {modality.unit}" if modality.unit else ""
    match modality.kind:
        case "series":
            return f"Windows of {samples} samples {length} by {channels}, raw values{unit}, float32. NaN means missing."
        case "audio":
            return f"Windows of {samples} samples of audio {length} by {channels}, float32, -1 to 1. NaN is missing."
        case "video":
            return (
                f"Windows of {samples} frames {length} of {modality.height} rows by {modality.width} pixels by "
                f"{channels}, the camera's bytes, uint8. A missing frame is None in a list of frames, or masked."
            )


def _measurements(report: ExportReport) -> Iterator[str]:
    windows = report.windows
    yield from ("## What was measured at export", "")
    yield (
        f"On {windows.count} {windows.source}; {windows.judging} of them only judge, {windows.labelled} of these "
        "have a label. Parity is the largest difference of a logit or a probability from the checkpoint."
    )
    if windows.carried is not None:
        yield f"{windows.carried} of these windows are in here, as golden windows: the device tests itself with them."
    if windows.golden:
        yield from ("", f"**No recording is in here**: {NO_RECORDING}.")
    if windows.synthetic:
        yield from ("", f"**No recording was compared.** {SYNTHETIC}.")
    else:
        yield "They come from validation and chose the weights, so they flatter; the test split measures the student."


def _artifacts(report: ExportReport) -> Iterator[str]:
    absent = "no known faults" if report.student.metric == "auroc" else "no labels"
    names = tuple(report.artifacts[0].figures or ("accuracy", "balanced accuracy", "macro-F1"))
    yield f"| artifact | size | parity | parity with gaps | labels agree | {' | '.join(names)} |"
    yield f"|{'---|' * (5 + len(names))}"
    for artifact in report.artifacts:
        scores = artifact.scores
        figures = tuple((artifact.figures or dict.fromkeys(names)).values())
        if scores:
            figures = (scores.accuracy, scores.balanced_accuracy, scores.macro_f1)
        cells = (
            f"`{artifact.file}` (opset {artifact.opset})",
            f"{artifact.size_bytes / 1000:.0f} kB",
            f"{artifact.parity.max_abs_error:.1e}",
            f"{artifact.parity_with_gaps.max_abs_error:.1e}",
            f"{artifact.parity.label_agreement:.1%}",
            *(absent if figure is None else f"{figure:.3f}" for figure in figures),
        )
        yield f"| {' | '.join(cells)} |"
    for artifact in report.artifacts:
        if artifact.gate is not None and artifact.gate.unjudged is True:
            yield ""
            yield (
                f"**`{artifact.file}` is unjudged**: its gate needs {MIN_JUDGING} windows and had "
                f"{artifact.gate.windows}, which whoever exported it accepted."
            )
    for step in report.steps:
        yield ""
        yield (
            f"The student is causal. `{step.file}` ({step.size_bytes / 1000:.0f} kB) takes {step.stride} samples and "
            f"the state after the last step, {step.mflops:.2f} million operations. Along {step.steps} steps of a "
            f"recording it stayed within {step.parity.max_abs_error:.1e} of one pass over all of it."
        )


def _confidence(report: ExportReport, entry: ModelEntry) -> Iterator[str]:
    rows = [(row.file, reliability_text(row.confidence)) for row in report.artifacts if row.confidence is not None]
    if rows:
        yield from ("## Confidence", "", *(f"- `{file}`: {text}." for file, text in rows), "")
    if rows and report.windows.judged_by == report.windows.source:
        yield from (f"{SAME_GROUPS[0].upper()}{SAME_GROUPS[1:]}.", "")
    limits = entry.group_reference.magnitude if entry.group_reference is not None else None
    scored = [(artifact.file, artifact.novelty) for artifact in entry.artifacts if artifact.novelty]
    if limits or scored or entry.normal:
        yield from ("## Unknown windows", "")
    if limits:
        yield f"- A window of another magnitude than the training's is `unknown`: {magnitude_text(limits)}."
    yield from (f"- `{file}`: {novelty_text(novelty)}." for file, novelty in scored)
    if entry.normal:
        yield f"- {normal_text(entry.normal)[0].upper()}{normal_text(entry.normal)[1:]}."
    if entry.over_time:
        yield from (
            "",
            "## Answers over time",
            "",
            f"A stream weighs in earlier answers: {over_time_text(entry.over_time)}.",
        )


def _origin(report: ExportReport, entry: ModelEntry, licence: str) -> Iterator[str]:
    student = report.student
    teaching = "Fitted to normal running" if entry.normal else "Trained on labels only"
    if hashes := student.teachers_sha256:
        teachers = "the teacher" if len(hashes) == 1 else f"{len(hashes)} teachers"
        teaching = f"Distilled from {teachers} with SHA-256 {', '.join(f'`{sha256}`' for sha256 in hashes)}"
    score = "no known fault in validation, so that it has no AUROC"
    if student.score is not None:
        score = f"{student.metric.replace('_', ' ')} on the validation split {student.score:.3f}"
    yield from ("## Origin", "")
    yield f"- Dataset {student.dataset} (SHA-256 `{student.dataset_sha256}`), licence: {licence}."
    yield f"- {teaching}; {score}."
    yield from (f"- Adapted since, from {adapted_text(adapted)}." for adapted in entry.adapted or ())
    yield f"- Checkpoint SHA-256 `{student.checkpoint_sha256}`, trained with {_versions(student.trained_with)}."
    yield f"- Exported with {_versions(report.tools)}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
