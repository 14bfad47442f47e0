"""The page of `mmkd-export`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmkd_app import words
from mmkd_app.pages import charts, page
from mmkd_app.words import NOTHING, count, decimal, is_number, percent
from mmkd_documents.export import ArtifactReport, ExportDocument, ExportReport, GateResult

METHOD_NAMES = {"minmax": "largest value", "percentile": "99.99th percentile"}


def size_text(size_bytes: int) -> str:
    r"""Write a size in kilobytes or megabytes, in powers of ten.

    >>> size_text(461162), size_text(10603400)
    ('461\u202fkB', '10.6\u202fMB')
    """
    if size_bytes < 1_000_000:
        return f"{decimal(size_bytes / 1000, 0)}{words.THIN}kB"
    return words.quantity(size_bytes / 1e6, "MB")


def error_text(value: float | None) -> str:
    r"""Write an error of any size with two digits.

    >>> error_text(1.5497e-06), error_text(0.0278), error_text(0.0)
    ('1.5e\u221206', '0.028', '0')
    """
    return words.plain(float(f"{value:.2g}")) if is_number(value) else NOTHING


def render_export(export: ExportDocument) -> str:
    """Return the page as HTML."""
    report, windows = export.report, export.report.windows
    measured = _measured_artifacts(export)
    quantised = [artifact for artifact in measured if artifact.attempts]
    labelled = f"{count(windows.labelled)} of them with a label"
    judged = f"Judged on {count(windows.judging)} windows that did nothing else, {labelled}: {windows.judged_by}."
    headline = f"Does {report.model_id} answer as it was trained?"
    if len(report.artifacts) + len(report.left_out) > 1:
        headline = f"Which artifact of {report.model_id} should run?"
    parts = (
        [_artifacts(export)],
        _confidence(report),
        [_remedies(quantised, measured)] if quantised else [],
        [_parity(export, measured), _origin(export)],
    )
    return page.render(
        page.Page(
            title=f"{report.model_id}: what the export measured",
            kind="export",
            headline=headline,
            lede=[
                f"{report.model_id}.",
                f"Reads {report.student.modality} and answers {words.join_words(report.student.labels)}.",
                judged,
            ],
            answer=answer(export),
            key_figures=key_figures(export),
            cautions=[f"{windows.caution}."] if windows.caution else [],
            sections=[section for part in parts for section in part],
            document="the bundle's report.json and the JSON document of this run",
        )
    )


def answer(export: ExportDocument) -> Iterator[str]:
    """Yield the verdicts, and fp32's parity."""
    report = export.report
    for artifact in report.artifacts:
        if artifact.gate is not None:
            verdict = "is unjudged: too few windows" if artifact.gate.unjudged is True else "passed its gate"
            yield f"{artifact.name} {verdict} ({_gate_text(artifact.gate, report)})."
    yield from (other.twin_text for other in report.others if other.twin)
    for left_out in report.left_out:
        yield f"{left_out.name} was left out: {left_out.reason.partition(chr(10))[0].partition(';')[0]}."
    first = report.artifacts[0]
    if first.precision == "fp32" and is_number(first.parity.max_abs_error):
        kind = "synthetic" if report.windows.synthetic else "real"
        yield (
            f"The fp32 graph gives the checkpoint's answers within {error_text(first.parity.max_abs_error)} on "
            f"{first.parity.windows} {kind} windows."
        )


def _gate_text(gate: GateResult, report: ExportReport) -> str:
    agreement = words.short_percent(gate.label_agreement)
    same = f"the checkpoint's {report.answer_noun} on {agreement} of {gate.windows} windows"
    if gate.drop_points is None:
        return same
    names = {metric.name: metric.words for metric in report.reported_metrics}
    metric = names.get(gate.metric, gate.metric.replace("_", " "))
    return f"{decimal(gate.drop_points, 2)} points of {metric} lost, {same}"


def key_figures(export: ExportDocument) -> Iterator[tuple[str, str]]:
    """Yield number and caption, as far as measured."""
    student, artifacts, metric = export.report.student, export.report.artifacts, export.report.chosen_by
    score = artifacts[0].score(metric.name)
    if is_number(score):
        windows = f"{export.report.windows.labelled} judging windows"
        yield words.score_with_unit(score, metric), f"{metric.words} of {artifacts[0].name} on {windows}"
    smallest = min(artifacts, key=lambda artifact: artifact.size_bytes)
    bundle = f"the smallest artifact, {smallest.name}; the whole bundle {size_text(export.size_bytes)}"
    yield size_text(smallest.size_bytes), bundle
    work = words.quantity(student.mflops, "MFLOP")
    yield words.magnitude(student.parameters), f"parameters ({student.preset}), {work} a window"


def _measured_artifacts(export: ExportDocument) -> list[ArtifactReport]:
    left_out = [left_out.artifact for left_out in export.report.left_out if left_out.artifact is not None]
    return [*export.report.artifacts, *left_out]


def _artifacts(export: ExportDocument) -> page.Section:
    report, measured = export.report, _measured_artifacts(export)
    largest = max(artifact.size_bytes for artifact in measured)
    rows = []
    for artifact in measured:
        role = artifact.precision
        cells: list[page.Cell | str] = [
            page.Cell(artifact.name, role=role, content=charts.element("code", artifact.file)),
            page.bar_cell(artifact.size_bytes / largest, role, size_text(artifact.size_bytes)),
            *(words.score_text(artifact.score(metric.name), metric, digits=2) for metric in report.reported_metrics),
            percent(artifact.parity.label_agreement, 2),
            artifact.backend,
            _verdict(artifact.gate, is_left_out=artifact not in report.artifacts),
        ]
        rows.append(page.Row(cells, role))
    caption = (
        "Scores are on the labelled judging windows; agreement is the fraction of all windows with the checkpoint's "
        f"{report.answer_noun}, in the backend of the row. mmkd-bench tune measures which is the fastest on a device."
    )
    heads = [
        "Artifact",
        "Size",
        *(metric.heading for metric in report.reported_metrics),
        "Agreement, %",
        page.label("Backend"),
        page.label("Verdict"),
    ]
    blocks: list[page.Block] = [page.table(heads, rows, caption=caption, style="results artifacts")]
    if export.engines:
        engines = [
            [
                engine.path,
                engine.sidecar.precision,
                size_text(engine.sidecar.size_bytes),
                f"{engine.sidecar.library} {engine.sidecar.library_version}",
            ]
            for engine in export.engines
        ]
        heads = ["File", page.label("Precision"), "Size", page.label("Built with")]
        built = page.table(
            heads, engines, caption="Engines built beside the bundle", style="compact", hide_caption=True
        )
        blocks += [page.Heading("Engines"), built]
    return page.Section("artifacts", "Artifacts", blocks)


def _verdict(gate: GateResult | None, *, is_left_out: bool) -> str:
    if is_left_out:
        return "left out" if gate is None or gate.passed else "gate not passed"
    return "in the bundle, unjudged" if gate is not None and gate.unjudged is True else "in the bundle"


def _drop(gate: GateResult) -> str:
    if not gate.finite:
        return "not numbers"
    return decimal(gate.drop_points, 2) if is_number(gate.drop_points) else "no labels"


def _confidence(report: ExportReport) -> Iterator[page.Section]:
    heads = ["Error level, %", "True label in the set, %", "95 % interval", "Labels in a set", "Sets of one label, %"]
    blocks: list[page.Block] = []
    for artifact in report.artifacts:
        if artifact.confidence is not None:
            facts, before, after = artifact.confidence, artifact.confidence.before, artifact.confidence.after
            rows = [
                [
                    percent(sets.error_level),
                    percent(sets.coverage),
                    f"{percent(sets.low)} to {percent(sets.high)}",
                    decimal(sets.mean_set_size, 2),
                    percent(sets.single_fraction),
                    percent(sets.single_accuracy),
                ]
                for sets in facts.coverages
            ]
            caption = (
                f"Temperature {decimal(facts.temperature, 2)} from {count(facts.calibrated_by)} windows. On "
                f"{count(facts.windows)} others: calibration error {decimal(before.calibration_error, 3)} without and "
                f"{decimal(after.calibration_error, 3)} with it, log loss {decimal(before.log_loss, 3)} and "
                f"{decimal(after.log_loss, 3)}."
            )
            blocks += [page.Heading(artifact.name), page.table([*heads, "Right of these, %"], rows, caption=caption)]
    if blocks:
        lead = (
            "At an error level that the application chooses, each answer is the set of labels that remain possible; "
            "with more than one, the predictor abstains. Over windows like those that calibrated it, the true label is "
            "missing from no more sets than the level allows. Intervals take the windows as independent."
        )
        if report.windows.judged_by == report.windows.source:
            lead += (
                " Calibration and judging windows are of the same people, machines or sessions: new ones may be "
                "covered less."
            )
        yield page.Section("confidence", "Confidence", blocks, lead)


def _remedies(quantised: Sequence[ArtifactReport], measured: Sequence[ArtifactReport]) -> page.Section:
    heads = ["Remedy", page.label("Ranges"), "INT8 layers", "Drop, points", "Agreement, %", page.label("Gate")]
    blocks: list[page.Block] = []
    for artifact in quantised:
        rows = [
            page.Row(
                [
                    row.remedy,
                    METHOD_NAMES[row.method],
                    count(row.layers),
                    _drop(row.gate),
                    percent(row.gate.label_agreement, 2),
                    page.Cell(content=charts.element("span", word, class_=style)),
                ]
            )
            for row in artifact.attempts
            for style, word in [("good", "passed") if row.gate.passed else ("bad", "not passed")]
        ]
        caption = f"Attempts to quantise {artifact.name}; every row keeps what the rows above it changed."
        blocks += [page.Heading(artifact.name), page.table(heads, rows, caption=caption)]
    for artifact in measured:
        if artifact.float_layers:
            summary = f"{words.count_noun(len(artifact.float_layers), 'layer')} of {artifact.name} in float32, and why"
            blocks.append(page.Details(summary, [page.Facts(artifact.float_layers.items())]))
    return page.Section("tried", "What was tried", blocks)


def _parity(export: ExportDocument, measured: Sequence[ArtifactReport]) -> page.Section:
    windows = export.report.windows
    rows = [
        page.Row([head, kind, name, error_text(tensor.max_abs_error), error_text(tensor.mean_abs_error)])
        for artifact in measured
        for head in [page.Cell(artifact.name, role=artifact.precision)]
        for kind, parity in (("as recorded", artifact.parity), ("with gaps", artifact.parity_with_gaps))
        for name, tensor in parity.tensors
    ]
    tensor_heads = ["Artifact", page.label("Windows"), page.label("Output"), "Largest", "Mean"]
    lead = (
        f"Differences from the checkpoint's answers on {count(windows.count)} {windows.source}, and on copies of them "
        "that miss a span, a channel or everything."
    )
    tensors = page.table(tensor_heads, rows, caption="Differences of each output", hide_caption=True)
    return page.Section("parity", "Parity with the checkpoint", [tensors], lead)


def _origin(export: ExportDocument) -> page.Section:
    report, student = export.report, export.report.student
    untaught = "fitted to normal running" if student.metric == "auroc" else "trained on labels only"
    taught = ", ".join(student.teachers_sha256) or f"none: {untaught}"
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
    facts = [page.Facts(rows, title) for title, rows in groups.items() if rows]
    return page.Section("origin", "Where it comes from", [page.columns(facts)])
