"""The page of `mmkd-export`: which artifact to run, and everything that was measured and tried to make it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd_report.charts import Axis, Chart, Point, axis, bar, clipping_histogram, element, scatter, scatter_key
from mmkd_report.page import (
    Block,
    Cell,
    Column,
    Columns,
    Details,
    Drawing,
    Facts,
    Heading,
    Heads,
    Page,
    Picture,
    Row,
    Section,
    Text,
    label,
    render,
    table,
)
from mmkd_report.schema.confidence import ConfidenceFacts
from mmkd_report.schema.export import (
    ActivationHistogram,
    ArtifactReport,
    BackendRun,
    ExportDocument,
    ExportReport,
    GateResult,
    read_export,
)
from mmkd_report.schema.figures import Measure
from mmkd_report.words import (
    NOTHING,
    TIMES,
    count,
    counted,
    fixed,
    is_number,
    join_words,
    magnitude,
    percent,
    plain,
    score_text,
    score_with_unit,
    share,
    significant,
    tick,
    with_unit,
)

METHOD_NAMES = {
    "minmax": "largest value",
    "percentile": "99.99th percentile",
    "learnt": "learnt in training",
}
SHAPES = {"ort": "circle", "openvino": "square"}
MOST_OPEN_HISTOGRAMS = 6

BACKEND_NAMES = {"ort": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT", "trt": "TensorRT"}

NOTICEABLE = 1.1
"""From this ratio of two medians one is called faster: from it `mmkd-export --precision auto` keeps an artifact."""


@dataclass(frozen=True, kw_only=True)
class TimedArtifact:
    """An artifact in a backend, with its latency in microseconds. `kept` says whether the bundle holds it."""

    artifact: ArtifactReport
    run: BackendRun
    latency_us: float
    kept: bool

    @property
    def name(self) -> str:
        """Precision and backend, for people."""
        return f"{self.artifact.name} in {backend_name(self.run.backend)}"


def backend_name(backend: str) -> str:
    """A backend as its makers write it."""
    return BACKEND_NAMES.get(backend, backend)


def latency_text(latency_us: float | None) -> str:
    r"""A latency with its unit.

    >>> latency_text(206.7), latency_text(1478.2), latency_text(None)
    ('207\u202fµs', '1.48\u202fms', '–')
    """
    if not is_number(latency_us):
        return NOTHING
    if latency_us < 1000:
        return with_unit(significant(latency_us), "µs")
    return with_unit(significant(latency_us / 1000), "ms")


def size_text(size_bytes: int) -> str:
    r"""A size in kilobytes or megabytes, in powers of ten.

    >>> size_text(461162), size_text(10603400)
    ('461\u202fkB', '10.6\u202fMB')
    """
    if size_bytes < 1_000_000:
        return with_unit(fixed(size_bytes / 1000, 0), "kB")
    return with_unit(significant(size_bytes / 1e6), "MB")


def error_text(value: float | None) -> str:
    r"""An error of any size, with two digits.

    >>> error_text(1.5497e-06), error_text(0.0278), error_text(0.0)
    ('1.5e\u221206', '0.028', '0')
    """
    return plain(float(f"{value:.2g}")) if is_number(value) else NOTHING


def timed(export: ExportDocument) -> tuple[TimedArtifact, ...]:
    """Everything that was timed, the fastest first."""
    report = export.report
    judged = [(artifact, True) for artifact in report.artifacts]
    judged += [(left_out.artifact, False) for left_out in report.left_out if left_out.artifact is not None]
    found = [
        TimedArtifact(artifact=artifact, run=run, latency_us=run.latency_us, kept=kept)
        for artifact, kept in judged
        for run in artifact.backends
        if is_number(run.latency_us)
    ]
    return tuple(sorted(found, key=lambda one: one.latency_us))


def question(export: ExportDocument) -> str:
    """What the page answers."""
    if len(export.report.artifacts) + len(export.report.left_out) > 1:
        return f"Which artifact of {export.report.model_id} should run?"
    return f"Does {export.report.model_id} answer as it was trained?"


def answer(export: ExportDocument) -> tuple[str, ...]:
    """The answer in a few sentences."""
    return (*_speed(export), *_gates(export), *_left_out(export), *_parity(export))


def _speed(export: ExportDocument) -> Iterator[str]:
    """Which artifact of those that were timed is fastest; medians without a spread are told apart from `NOTICEABLE`."""
    kept = [one for one in timed(export) if one.kept]
    if not kept:
        return
    best, backends = kept[0], dict.fromkeys(backend_name(one.run.backend) for one in kept)
    window = f"{latency_text(best.latency_us)} for one window, one thread"
    if len(kept) == 1:
        yield f"{best.name} takes {window}; nothing else was timed."
    else:
        equal = [one.name for one in kept if _is_near(one, best)]
        among = f"Of what was timed here, in {join_words(list(backends))},"
        if len(equal) == 1:
            yield f"{among} {best.name} is the fastest: {window}{_gain_over_fp32(kept)}."
        else:
            yield f"{among} {join_words(equal)} are equally fast within 10\u202f%: {window}{_gain_over_fp32(kept)}."
    runs = [run for artifact in export.report.artifacts for run in artifact.backends]
    untimed = [name for name in dict.fromkeys(backend_name(run.backend) for run in runs) if name not in backends]
    if untimed:
        yield f"{join_words(untimed)} {'was' if len(untimed) == 1 else 'were'} not timed."


def _is_near(one: TimedArtifact, best: TimedArtifact) -> bool:
    return one.latency_us < NOTICEABLE * best.latency_us


def _gain_over_fp32(kept: Sequence[TimedArtifact]) -> str:
    """What lower precision gains, where both were timed, as the end of a sentence."""
    full = next((one for one in kept if one.artifact.precision == "fp32"), None)
    lower = next((one for one in kept if one.artifact.precision != "fp32"), None)
    if full is None or lower is None:
        return ""
    if _is_near(full, lower):
        return "; lower precision gains nothing that counts here"
    ratio = significant(full.latency_us / lower.latency_us)
    subject = "it" if lower is kept[0] and not _is_near(kept[1], lower) else lower.name
    return f"; {subject} is {ratio} times as fast as {full.name}, the best of fp32"


def _gates(export: ExportDocument) -> Iterator[str]:
    for artifact in export.report.artifacts:
        gate = artifact.gate
        if gate is None:
            continue
        verdict = f"{artifact.name} passed its gate: {_gate_cost(gate, export.report)}"
        if gate.unjudged is True:
            verdict = f"{artifact.name} is unjudged, its windows are too few: {_gate_cost(gate, export.report)}"
        if len(artifact.attempts) > 1:
            verdict += f"; what repaired it was the remedy “{artifact.attempts[-1].remedy}”"
        yield f"{verdict}."


def _gate_cost(gate: GateResult, report: ExportReport) -> str:
    same = f"the checkpoint's {report.answered} on {share(gate.label_agreement)} of {gate.windows} windows"
    if gate.drop_points is None:
        return same
    metric = next(
        (one.words for one in report.reported_metrics if one.name == gate.metric), gate.metric.replace("_", " ")
    )
    if gate.drop_points == 0:
        return f"no {metric} lost, {same}"
    change = "lost" if gate.drop_points > 0 else "gained"
    return f"{fixed(abs(gate.drop_points), 2)} points of {metric} {change}, {same}"


def _left_out(export: ExportDocument) -> Iterator[str]:
    for left_out in export.report.left_out:
        reason = left_out.reason.partition("\n")[0].partition(";")[0]
        yield f"{left_out.name} was tried and left out: {reason}."


def _parity(export: ExportDocument) -> Iterator[str]:
    first = export.report.artifacts[0]
    worst = first.parity.max_abs_error
    if first.precision == "fp32" and is_number(worst):
        kind = "synthetic" if export.report.windows.synthetic else "real"
        yield (
            f"The fp32 graph gives the checkpoint's answers within {error_text(worst)} on {first.parity.windows} "
            f"{kind} windows."
        )


def key_figures(export: ExportDocument) -> tuple[tuple[str, str], ...]:
    """The few figures that a decision hangs on; what was not measured is left out."""
    student, artifacts = export.report.student, export.report.artifacts
    smallest = min(artifacts, key=lambda artifact: artifact.size_bytes)
    figures = [
        (latency_text(one.latency_us), f"{one.name}, median, one thread")
        for one in [one for one in timed(export) if one.kept][:1]
    ]
    metric = export.report.chosen_by
    score = artifacts[0].score(metric.name)
    if is_number(score):
        figures.append(
            (
                score_with_unit(score, metric),
                f"{metric.words} of {artifacts[0].name} on {export.report.windows.labelled} judging windows",
            )
        )
    figures.append(
        (
            size_text(smallest.size_bytes),
            f"the smallest artifact, {smallest.name}; the whole bundle {size_text(export.size_bytes)}",
        )
    )
    work = with_unit(significant(student.mflops), "MFLOP")
    figures.append((magnitude(student.parameters), f"parameters ({student.preset}), {work} a window"))
    return tuple(figures)


def render_export(document: Mapping[str, Any]) -> str:
    """Return the page of one export as HTML.

    Args:
        document: What `mmkd-export --json` writes.

    Raises:
        DocumentError: The document breaks its contract; the message names the place.
    """
    export = read_export(document)
    report, windows = export.report, export.report.windows
    measured = measured_artifacts(export)
    quantised = [one for one in measured if one.attempts]
    labelled = f"{count(windows.labelled)} of them with a label"
    judged = f"Judged by {count(windows.judging)} windows that did nothing else ({labelled}): {windows.judged_by}."
    parts = (
        [_artifacts(export)],
        _pareto(export),
        _gate_table(export, measured),
        _confidence(report),
        [_tried(quantised, measured), _sensitivity(quantised), _activations(quantised)] if quantised else [],
        [_parity_tables(export, measured), _origin(export)],
    )
    return render(
        Page(
            title=f"{report.model_id}: what the export measured",
            kind="export",
            headline=question(export),
            lede=[
                (True, f"{report.model_id}."),
                (False, f"Reads {report.student.modality} and answers {join_words(report.student.labels)}."),
                (False, judged),
            ],
            answer=answer(export),
            key_figures=key_figures(export),
            cautions=[f"{windows.caution}."] if windows.caution else [],
            has_contents=True,
            sections=[section for part in parts for section in part],
            footer="Made by mmkd-edge. The same figures, unrounded, are in the bundle's report.json and in the JSON "
            "document of this run. The test split of the dataset, which no export sees, is the measure of the student.",
        )
    )


def precision_role(precision: str) -> str:
    """Return the role that colours a precision."""
    return precision if precision in ("fp32", "fp16", "int8") else "other"


def measured_artifacts(export: ExportDocument) -> list[ArtifactReport]:
    """Return every artifact that was measured, those left out of the bundle last."""
    left_out = [one.artifact for one in export.report.left_out if one.artifact is not None]
    return [*export.report.artifacts, *left_out]


def _head(artifact: ArtifactReport) -> Cell:
    return Cell(artifact.name, role=precision_role(artifact.precision))


def _artifacts(export: ExportDocument) -> Section:
    report = export.report
    backends = tuple(dict.fromkeys(backend_name(one.run.backend) for one in timed(export)))
    columns = [label("Artifact"), Column("Size")]
    columns += [Column(one.short if one.is_share else one.heading) for one in report.reported_metrics]
    columns += [Column("Agreement"), *(Column(name) for name in backends)]
    columns.append(label("Verdict"))
    measured = measured_artifacts(export)
    largest = max(artifact.size_bytes for artifact in measured)
    rows = []
    for number, artifact in enumerate(measured):
        role = precision_role(artifact.precision)
        latencies = {backend_name(run.backend): latency_text(run.latency_us) for run in artifact.backends}
        width = round(100 * artifact.size_bytes / largest, 1)
        scores = [score_text(artifact.score(one.name), one, digits=2) for one in report.reported_metrics]
        file = element("code", artifact.file)
        cells: list[Cell | str] = [
            Cell(size_text(artifact.size_bytes), content=bar(width, role)),
            *scores,
            share(artifact.parity.label_agreement),
            *(latencies.get(name, NOTHING) for name in backends),
            _verdict(artifact.gate, is_left_out=number >= len(report.artifacts)),
        ]
        rows.append(Row(Cell(artifact.name, role=role, content=file), cells, role=role))
    machine = f", on {report.machine}" if report.machine else ""
    timing = f"Latencies are medians of one run on one thread, all artifacts in turns{machine}."
    caption = (
        f"Scores are on the labelled judging windows{', in percent' if report.reported_metrics[0].is_share else ''}; "
        f"agreement is the fraction of all windows with the checkpoint's {report.answered}. "
        f"{timing if backends else 'Nothing was timed.'}"
    )
    blocks: list[Block] = [table(columns, rows, caption=caption, style="results artifacts")]
    if export.engines:
        engines = [
            Row(
                one.path,
                [
                    one.sidecar.precision,
                    size_text(one.sidecar.size_bytes),
                    f"{one.sidecar.library} {one.sidecar.library_version}",
                ],
            )
            for one in export.engines
        ]
        heads: Heads = [label("File"), label("Precision"), "Size"]
        heads.append(label("Built with"))
        built = table(heads, engines, caption="Engines built beside the bundle", style="compact", hide_caption=True)
        blocks += [Heading("Engines"), built]
    return Section(key="artifacts", title="Artifacts", blocks=blocks)


def _verdict(gate: GateResult | None, *, is_left_out: bool) -> str:
    if is_left_out:
        return "left out" if gate is None or gate.passed else "gate not passed"
    return "in the bundle, unjudged" if gate is not None and gate.unjudged is True else "in the bundle"


def _pareto(export: ExportDocument) -> Iterator[Section]:
    """Accuracy against latency, if at least two configurations were timed."""
    found = timed(export)
    if len(found) < 2:
        return
    metric = export.report.chosen_by
    scored = all(is_number(one.artifact.score(metric.name)) for one in found)
    in_percent = metric.is_share or not scored
    unit, scale = ("ms", 1000.0) if found[-1].latency_us >= 1000 else ("µs", 1.0)
    points = [_point(one, metric=metric, scored=scored, scale=scale) for one in found]
    floor = _floor(export, metric) if scored else None
    heights = [point.y for point in points] + ([floor] if floor is not None else [])
    over = axis(heights, floor=metric.floor if scored else 0.0, ceiling=1.0)
    chart = scatter(
        points,
        title="Accuracy against latency",
        description="; ".join(point.title for point in points) + ".",
        x_label=f"median latency of one window, {unit}",
        x_axis=axis([0.0, *(point.x for point in points)], floor=0.0),
        y_axis=over,
        x_text=plain,
        y_text=(lambda value: percent(value, _digits(over))) if in_percent else (lambda value: tick(value, metric)),
        floor=floor,
    )
    names = ((precision_role(one.artifact.precision), _shape(one), one.name, not one.kept) for one in found)
    agreeing = f"fraction of windows with the checkpoint's {export.report.answered}"
    height = f"{metric.words if scored else agreeing} on the judging windows{', in percent' if in_percent else ''}"
    yield Section(
        key="pareto",
        title="Accuracy against latency",
        lead="Up and to the left is better. The line is the best accuracy that the bundle has for a latency: nothing "
        f"below or to the right of it is worth running here. Height is {height}.",
        blocks=[Columns(items=[[Picture(chart)], [Drawing(scatter_key(names))]], style="pareto")],
    )


def _point(one: TimedArtifact, *, metric: Measure, scored: bool, scale: float) -> Point:
    value = one.artifact.score(metric.name) if scored else one.artifact.parity.label_agreement
    height = value if is_number(value) else 0.0
    in_percent = metric.is_share or not scored
    written = with_unit(percent(height, 2), "%") if in_percent else f"{metric.words} {score_text(height, metric)}"
    title = f"{one.name}: {latency_text(one.latency_us)}, {written}{'' if one.kept else ', left out'}"
    role = precision_role(one.artifact.precision)
    return Point(role=role, shape=_shape(one), title=title, x=one.latency_us / scale, y=height, kept=one.kept)


def _shape(one: TimedArtifact) -> str:
    return SHAPES.get(one.run.backend, "diamond")


def _floor(export: ExportDocument, metric: Measure) -> float | None:
    """Return the fp32 score minus the largest drop allowed; None without a gate."""
    allowed = [one.gate.allowed_drop_points for one in measured_artifacts(export) if one.gate]
    score = export.report.artifacts[0].score(metric.name)
    return score - max(allowed) / 100 if allowed and is_number(score) else None


def _digits(over: Axis) -> int:
    return 0 if (over.high - over.low) >= 0.04 else 1 if (over.high - over.low) >= 0.004 else 2


def _gate_table(export: ExportDocument, measured: Sequence[ArtifactReport]) -> Iterator[Section]:
    rows = [
        Row(
            _head(one),
            [
                _drop(one.gate),
                fixed(one.gate.allowed_drop_points, 2),
                share(one.gate.label_agreement),
                share(one.gate.least_agreement),
                count(one.gate.windows),
                _passed(one.gate),
            ],
        )
        for one in measured
        if one.gate is not None
    ]
    if rows:
        columns: Heads = [label("Artifact"), "Drop, points", "At most", "Agreement", "At least", "Windows"]
        columns.append(label("Verdict"))
        caption = "Gates of the artifacts of lower precision"
        gates = table(columns, rows, caption=caption, hide_caption=True)
        reasons = [
            Text(f"{one.precision} was left out: {one.reason.partition(chr(10))[0]}") for one in export.report.left_out
        ]
        lead = (
            "An artifact of lower precision enters the bundle only if, on windows that did nothing else, the metric "
            "drops by no more than allowed and the labels are those of the checkpoint."
        )
        yield Section(key="gates", title="Gates", lead=lead, blocks=[gates, *reasons])


def _passed(gate: GateResult) -> Cell:
    style, word = ("good", "passed") if gate.passed else ("bad", "not passed")
    return Cell(content=element("span", word, class_=style))


def _drop(gate: GateResult) -> str:
    """Return the points that an artifact lost, or why they are not known."""
    if not gate.finite:
        return "not numbers"
    return fixed(gate.drop_points, 2) if is_number(gate.drop_points) else "no labels"


def _confidence(report: ExportReport) -> Iterator[Section]:
    calibrated = [(one, one.confidence) for one in report.artifacts if one.confidence is not None]
    if not calibrated:
        return
    columns: Heads = [label("Error level"), "True label in the set", "95 % interval"]
    columns += ["Labels in a set", "Sets of one label", "Right of these"]
    blocks: list[Block] = []
    for artifact, facts in calibrated:
        role = precision_role(artifact.precision)
        rows = [
            Row(
                percent(one.error_level),
                [
                    percent(one.coverage),
                    f"{percent(one.low)} to {percent(one.high)}",
                    fixed(one.mean_set_size, 2),
                    percent(one.single_share),
                    percent(one.single_accuracy),
                ],
                role=role,
            )
            for one in facts.coverages
        ]
        caption = f"Label sets of {artifact.name} at several error levels"
        sets = table(columns, rows, caption=caption, hide_caption=True)
        blocks += [Heading(artifact.name), Text(_calibration(facts)), sets]
    same = report.windows.judged_by == report.windows.source
    caution = (
        " Calibration and judging windows are of the same people, machines or sessions: new ones may be covered less."
    )
    lead = (
        "At an error level that the application chooses, each answer names the labels that remain possible; if more "
        "than one does, the predictor abstains. Over windows like those that calibrated it, the true label is missing "
        "from no more sets than the level allows. All figures in percent but the labels in a set; intervals take the "
        f"windows as independent of each other.{caution if same else ''}"
    )
    yield Section(key="confidence", title="Confidence", lead=lead, blocks=blocks)


def _calibration(facts: ConfidenceFacts) -> str:
    before, after = facts.before, facts.after
    return (
        f"Temperature {fixed(facts.temperature, 2)} from {count(facts.calibrated_by)} windows. On "
        f"{count(facts.windows)} others the calibration error is {fixed(before.calibration_error, 3)} without it and "
        f"{fixed(after.calibration_error, 3)} with it, the log loss {fixed(before.log_loss, 3)} and "
        f"{fixed(after.log_loss, 3)}."
    )


def _tried(quantised: Sequence[ArtifactReport], measured: Sequence[ArtifactReport]) -> Section:
    columns: Heads = [label("Remedy"), label("Ranges")]
    columns += ["INT8 layers", "Drop, points", "Agreement", label("Gate")]
    blocks: list[Block] = []
    for one in quantised:
        more = " Every row keeps what the rows above it changed." if len(one.attempts) > 1 else ""
        rows = [
            Row(
                row.remedy,
                [
                    METHOD_NAMES[row.method],
                    count(row.layers),
                    _drop(row.gate),
                    share(row.gate.label_agreement),
                    _passed(row.gate),
                ],
            )
            for row in one.attempts
        ]
        caption = f"Attempts to quantise {one.name}, in order"
        attempts = table(columns, rows, caption=caption, hide_caption=True)
        blocks += [Heading(one.name), Text(_remedy(one) + more), attempts]
    for one in measured:
        if one.float_layers:
            summary = f"{counted(len(one.float_layers), 'layer')} of {one.name} in float32, and why"
            blocks.append(Details(summary=summary, blocks=[Facts(rows=one.float_layers.items())]))
    return Section(key="tried", title="What was tried", blocks=blocks)


def _remedy(artifact: ArtifactReport) -> str:
    rows = artifact.attempts
    if not rows[-1].gate.passed:
        return "No remedy passed the gate."
    if len(rows) == 1:
        return "The first attempt passed the gate; no remedy was needed."
    earlier = "one attempt before it" if len(rows) == 2 else f"{len(rows) - 1} attempts before it"
    return f"“{rows[-1].remedy}” repaired it, on top of the {earlier}."


def _sensitivity(quantised: Sequence[ArtifactReport]) -> Section:
    columns: Heads = [label("Layer")]
    columns.append(label(f"Rows {TIMES} inputs {TIMES} outputs", "product"))
    columns += [label("Fraction of the largest", "wide", hidden=True), "Divergence", "Logit"]
    blocks: list[Block] = []
    for one in quantised:
        role = precision_role(one.precision)
        largest = max((row.divergence for row in one.sensitivity if is_number(row.divergence)), default=0.0)
        rows = []
        for row in one.sensitivity:
            known = row.divergence if is_number(row.divergence) else 0.0
            width = round(100 * max(0.0, known) / largest, 1) if largest > 0 else 0.0
            reason = one.float_layers.get(row.layer)
            aside = element("span", f" stays float32: {reason}", class_="aside") if reason else None
            cells: list[Cell | str] = [
                f"{row.rows} {TIMES} {row.inputs} {TIMES} {row.outputs}",
                Cell(content=bar(width, role)),
                error_text(row.divergence),
                error_text(row.max_abs_error),
            ]
            rows.append(Row(Cell(row.layer, content=aside), cells))
        caption = f"Sensitivity of the layers of {one.name}, the most sensitive first"
        style = f"compact sensitivity role-{role}"
        blocks += [Heading(one.name), table(columns, rows, caption=caption, style=style, hide_caption=True)]
    lead = (
        "The change of the answers if only this layer computes in INT8: the mean divergence of the probabilities from "
        "those in float32 (in nats; the bar), and the largest change of a logit."
    )
    return Section(key="sensitivity", title="Sensitivity of layers", link="Sensitivity", lead=lead, blocks=blocks)


def _activations(quantised: Sequence[ArtifactReport]) -> Section:
    blocks: list[Block] = []
    for one in quantised:
        role = precision_role(one.precision)
        charts = [[Picture(_histogram(tensor, role))] for tensor in one.activations if tensor.bin_width > 0]
        shown, folded = charts[:MOST_OPEN_HISTOGRAMS], charts[MOST_OPEN_HISTOGRAMS:]
        blocks += [Heading(one.name), Columns(items=shown)]
        if folded:
            blocks.append(Details(summary=counted(len(folded), "further tensor"), blocks=[Columns(items=folded)]))
    lead = (
        "Magnitudes of the tensor that a layer reads, over all calibration windows; heights are logarithmic counts. "
        "The line is the largest magnitude that INT8 represents; what lies beyond it is clipped."
    )
    return Section(key="activations", title="What the layers read", link="Activations", lead=lead, blocks=blocks)


def _histogram(one: ActivationHistogram, role: str) -> Chart:
    limit, largest = one.represented, significant(one.largest)
    inside = len(one.counts) if limit is None else math.ceil(limit / one.bin_width - 1e-9)
    beyond = sum(one.counts[inside:])
    if limit is None:
        caption = f"up to {largest}; stays float32"
    elif not beyond:
        caption = f"up to {largest}; INT8 to {significant(limit)}"
    else:
        clipped = 100 * beyond / sum(one.counts)
        many = with_unit(fixed(clipped, 2), "%") if clipped >= 0.005 else f"{beyond} of {count(sum(one.counts))} values"
        caption = f"up to {largest}; INT8 to {significant(limit)}, {many} beyond it"
    first, *others = one.layers
    title = ", ".join((first, *(name.rpartition(".")[2] for name in others)))
    return clipping_histogram(one.counts, one.bin_width, limit=limit, title=title, caption=caption, role=role)


def _parity_tables(export: ExportDocument, measured: Sequence[ArtifactReport]) -> Section:
    windows = export.report.windows
    text = [label(name) for name in ("Artifact", "Windows", "Output")]
    rows = [
        Row(_head(one),
            [which, name, error_text(tensor.max_abs_error), error_text(tensor.mean_abs_error),
                   fixed(tensor.cosine, 6)],
        )
        for one in measured
        for which, parity in (("as recorded", one.parity), ("with gaps", one.parity_with_gaps))
        for name, tensor in parity.tensors
    ]  # fmt: skip
    runs = [
        Row(
            _head(one),
            [run.version, error_text(run.max_abs_error), share(run.label_agreement), latency_text(run.latency_us)],
        )
        for one in measured
        for run in one.backends
    ]
    differences = "Differences of each output from that of the checkpoint"
    backends = [label(name) for name in ("Artifact", "Backend")]
    return Section(
        key="parity",
        title="Parity with the checkpoint",
        link="Parity",
        lead=f"Every answer compared with the checkpoint's, on {count(windows.count)} {windows.source}, and on copies "
        "of "
        "them that miss a span, a channel or everything.",
        blocks=[
            table([*text, "Largest", "Mean", "Smallest cosine"], rows, caption=differences, hide_caption=True),
            Heading("In each backend"),
            table(
                [*backends, "Largest difference", "Agreement", "Latency"],
                runs,
                caption="Each artifact in each backend that it was run in",
                hide_caption=True,
            ),
        ],
    )


def _origin(export: ExportDocument) -> Section:
    report, student = export.report, export.report.student
    taught = ", ".join(student.teachers_sha256) or "none: trained on labels only"
    groups = {
        "Bundle": [("file", export.bundle), ("SHA-256", export.sha256), ("platform", report.platform)],
        "Student": [
            ("checkpoint", student.checkpoint_sha256),
            ("teacher", taught),
            ("dataset", f"{student.dataset}, {student.dataset_sha256}"),
        ],
        "Made with": sorted(report.tools.items()),
        "Trained with": sorted(student.trained_with.items()),
    }
    items = [[Facts(title=name, rows=rows)] for name, rows in groups.items() if rows]
    return Section(key="origin", title="Where it comes from", link="Origin", blocks=[Columns(items=items)])
