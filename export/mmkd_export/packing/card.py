"""The model card, `README.md` of a bundle."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mmkd_edge.bundle.manifest import ModelEntry, adapted_text
from mmkd_edge.errors import printable
from mmkd_edge.predict.novelty import magnitude_text, novelty_text
from mmkd_edge.spec import ModalitySpec, task_text
from mmkd_export.verify.gate import LEAST_JUDGING
from mmkd_models.evaluation.confidence import HEADINGS, SAME_GROUPS, coverage_cells, reliability_text
from mmkd_report.schema.export import ExportReport

NO_RECORDING = (
    "the bundle carries no recording: its golden windows were drawn from the channel statistics of the training data; "
    "a device's self-test shows that it computes the same, on windows unlike those of its sensor"
)


def model_card(report: ExportReport, entry: ModelEntry, *, licence: str) -> str:
    """Write the card as Markdown."""
    parts = (
        _input(report, entry),
        _measurements(report),
        _artifacts(report),
        _confidence(report),
        _novelty(entry),
        _origin(report, entry, licence),
    )
    return "\n".join(printable(line) for part in parts for line in (*part, ""))


def _input(report: ExportReport, entry: ModelEntry) -> Iterator[str]:
    task, modality, student = entry.task, entry.modality, report.student
    names = ", ".join(task.labels)
    match task.kind:
        case "classification":
            answer = f"one of {len(task.labels)} classes: {names}"
        case "multi_label":
            answer = f"any of {len(task.labels)} labels, each on from a probability of {task.on_from:g}: {names}"
        case "regression":
            answer = f"a number, the {task_text(task)}"
    yield from (f"# {report.model_id}", "")
    yield f"A student that reads one sensor, `{modality.name}`, and answers with {answer}."
    yield (
        f"{student.parameters:,} parameters ({student.preset}), {student.mflops:.2f} million floating point operations "
        "for one window."
    )
    yield from ("", "## Input", "", _window(modality))
    if modality.range is not None:
        why = f" ({report.range_rule})" if report.range_rule else ""
        yield f"A value outside {modality.range[0]:g} to {modality.range[1]:g} counts as missing{why}."
    is_relative = modality.normalise == "per_group"
    if is_relative:
        yield (
            "Raw values are only comparable within one group (person, machine or session): measure a reference with "
            "`mmkd-data reference` and open the bundle with it."
        )
    outputs = " and ".join(f"`{tensor.name}`" for tensor in entry.outputs[:2])
    values, present = (f"`{tensor.name}` {tensor.dtype} {tensor.shape}" for tensor in entry.inputs)
    yield (
        f"The graph takes {values} (missing values as 0) and {present} (1 or 0), and returns {outputs}, both "
        f"(1, {len(task.labels)}){', and `novelty` (1, 1)' if entry.has_novelty else ''}."
    )
    reference = ', reference="reference.json"' if is_relative else ""
    yield from (
        "",
        "## How to use it",
        "",
        "```python",
        "from mmkd_edge import EdgePredictor",
        "",
        f'with EdgePredictor.open("student.edge"{reference}) as predictor:',
        f"    print(predictor.predict(window))  # window: array {modality.shape}",
        "```",
        "",
    )
    yield (
        "`mmkd-bench run student.edge` measures its latency on this machine; `predictor.selftest()` checks that the "
        "machine computes the answers that are stored in the bundle."
    )


def _window(modality: ModalitySpec) -> str:
    length = f"{modality.duration_s:g} s at {modality.rate_hz:g} Hz"
    channels = f"{len(modality.channels)} channels ({', '.join(modality.channels)})"
    unit = f" in {modality.unit}" if modality.unit else ""
    match modality.kind:
        case "series":
            values = (
                f"{modality.samples} samples ({length}) by {channels}, raw values{unit}, float32. NaN means missing."
            )
        case "audio":
            values = (
                f"{modality.samples} samples of audio ({length}) by {channels}, float32 from -1 to 1. "
                "NaN means missing."
            )
        case "video":
            values = (
                f"{modality.samples} frames ({length}) of {modality.height} rows by {modality.width} pixels "
                f"by {channels}, the camera's bytes, uint8. A missing frame is None in a list of frames, or masked."
            )
    return f"Windows of {values}"


def _measurements(report: ExportReport) -> Iterator[str]:
    windows = report.windows
    yield from ("## What was measured at export", "")
    yield (
        f"On {windows.count} {windows.source}; {windows.judging} of them only judge, {windows.labelled} of these "
        "have a label. Parity is the largest difference of a logit or a probability from the checkpoint."
    )
    if windows.carried is not msgspec.UNSET:
        yield f"{windows.carried} of these windows are in here, as golden windows: the device tests itself with them."
    if windows.golden:
        yield from ("", f"**No recording is in here**: {NO_RECORDING}.")
    if windows.synthetic:
        yield ""
        yield (
            "**No recording was compared.** The checkpoint carried no windows, so they were drawn from the channel "
            "statistics of its training data: they show that the graph computes what the network computes, no more."
        )
    else:
        yield (
            "These windows come from validation: they chose the weights, so they flatter. The test split of the "
            "dataset is the measure of the student."
        )


def _artifacts(report: ExportReport) -> Iterator[str]:
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
            *("no labels" if figure is None else f"{figure:.3f}" for figure in figures),
        )
        yield f"| {' | '.join(cells)} |"
    for artifact in report.artifacts:
        if artifact.gate is not None and artifact.gate.unjudged is True:
            yield ""
            yield (
                f"**`{artifact.file}` is unjudged**: its gate needs {LEAST_JUDGING} windows and had "
                f"{artifact.gate.windows}, which whoever exported it accepted."
            )
    for step in report.steps:
        yield ""
        yield (
            f"The student is causal. `{step.file}` ({step.size_bytes / 1000:.0f} kB) takes {step.stride} samples and "
            f"the state after the last step, {step.mflops:.2f} million floating point operations. Along {step.steps} "
            f"steps of a recording it stayed within {step.parity.max_abs_error:.1e} of one pass over all of it."
        )


def _confidence(report: ExportReport) -> Iterator[str]:
    known = [(artifact, artifact.confidence) for artifact in report.artifacts if artifact.confidence is not None]
    if not known:
        return
    yield from ("## Confidence", "")
    yield (
        "`EdgePredictor.open(..., error_level=0.05)` returns with each answer the labels that remain possible: over "
        "windows like those that calibrated it, the true one is missing from at most one set in twenty. Any level can "
        "be set. On windows that did not calibrate it:"
    )
    yield ""
    yield f"| artifact | {' | '.join(HEADINGS)} |"
    yield f"|---|{'---|' * len(HEADINGS)}"
    for artifact, facts in known:
        for coverage in facts.coverages:
            yield f"| `{artifact.file}` | {' | '.join(coverage_cells(coverage))} |"
    yield ""
    yield from (f"- `{artifact.file}`: {reliability_text(facts)}." for artifact, facts in known)
    if report.windows.judged_by == report.windows.source:
        yield from ("", f"{SAME_GROUPS[0].upper()}{SAME_GROUPS[1:]}.")


def _novelty(entry: ModelEntry) -> Iterator[str]:
    limits = entry.group_reference.magnitude if entry.group_reference is not None else msgspec.UNSET
    scored = [(artifact.file, artifact.novelty) for artifact in entry.artifacts if artifact.novelty]
    if limits or scored:
        yield from ("## Unknown windows", "")
    if limits:
        yield (
            "A window of another magnitude than the training's, as in another unit, has the status `unknown`: "
            f"{magnitude_text(limits)}."
        )
        yield ""
    if scored:
        yield (
            "With `EdgePredictor.open(..., unknown_level=0.01)` windows that are less like the training than all but "
            "one in a hundred of the validation windows have it too; `Prediction.novelty` is the p-value. A person, "
            "machine or place that validation did not have is further away, so more windows are unknown there."
        )
        yield ""
        yield from (f"- `{file}`: {novelty_text(novelty)}." for file, novelty in scored)


def _origin(report: ExportReport, entry: ModelEntry, licence: str) -> Iterator[str]:
    student = report.student
    teaching = "Trained on labels only"
    if hashes := student.teachers_sha256:
        teachers = "the teacher" if len(hashes) == 1 else f"{len(hashes)} teachers"
        teaching = f"Distilled from {teachers} with SHA-256 {', '.join(f'`{sha256}`' for sha256 in hashes)}"
    metric = student.metric.replace("_", " ")
    yield from ("## Origin", "")
    yield f"- Dataset {student.dataset} (SHA-256 `{student.dataset_sha256}`), licence: {licence}."
    yield f"- {teaching}; {metric} on the validation split {student.score:.3f}."
    yield from (f"- Adapted since, from {adapted_text(adapted)}." for adapted in entry.adapted or ())
    yield f"- Checkpoint SHA-256 `{student.checkpoint_sha256}`, trained with {_versions(student.trained_with)}."
    yield f"- Exported with {_versions(report.tools)}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
