"""The sentences at the head of the export page: which artifact to run, and what speaks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmkd_report.documents.export import ArtifactReport, BackendRun, ExportDocument, ExportReport, GateResult
from mmkd_report.words.formats import NOTHING, fixed, is_figure, listed, magnitude, plain, share, significant, with_unit
from mmkd_report.words.key_figure import KeyFigure
from mmkd_report.words.measures import told

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
    if not is_figure(latency_us):
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
    return plain(float(f"{value:.2g}")) if is_figure(value) else NOTHING


def timed(export: ExportDocument) -> tuple[TimedArtifact, ...]:
    """Everything that was timed, the fastest first."""
    report = export.report
    judged = [(artifact, True) for artifact in report.artifacts]
    judged += [(left_out.artifact, False) for left_out in report.left_out if left_out.artifact is not None]
    found = [
        TimedArtifact(artifact=artifact, run=run, latency_us=run.latency_us, kept=kept)
        for artifact, kept in judged
        for run in artifact.backends
        if is_figure(run.latency_us)
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
        among = f"Of what was timed here, in {listed(list(backends))},"
        if len(equal) == 1:
            yield f"{among} {best.name} is the fastest: {window}{_against_fp32(kept)}."
        else:
            yield f"{among} {listed(equal)} are equally fast within 10\u202f%: {window}{_against_fp32(kept)}."
    runs = [run for artifact in export.report.artifacts for run in artifact.backends]
    untimed = [name for name in dict.fromkeys(backend_name(run.backend) for run in runs) if name not in backends]
    if untimed:
        yield f"{listed(untimed)} {'was' if len(untimed) == 1 else 'were'} not timed."


def _is_near(one: TimedArtifact, best: TimedArtifact) -> bool:
    return one.latency_us < NOTICEABLE * best.latency_us


def _against_fp32(kept: Sequence[TimedArtifact]) -> str:
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
        verdict = f"{artifact.name} passed its gate: {_lost(gate, export.report)}"
        if gate.unjudged is True:
            verdict = f"{artifact.name} is unjudged, its windows are too few: {_lost(gate, export.report)}"
        if len(artifact.attempts) > 1:
            verdict += f"; what repaired it was the remedy “{artifact.attempts[-1].remedy}”"
        yield f"{verdict}."


def _lost(gate: GateResult, report: ExportReport) -> str:
    same = f"the checkpoint's {report.answered} on {share(gate.label_agreement)} of {gate.windows} windows"
    if gate.drop_points is None:
        return same
    metric = next((one.words for one in report.told_in if one.name == gate.metric), gate.metric.replace("_", " "))
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
    if first.precision == "fp32" and is_figure(worst):
        kind = "synthetic" if export.report.windows.synthetic else "real"
        yield (
            f"The fp32 graph gives the checkpoint's answers within {error_text(worst)} on {first.parity.windows} "
            f"{kind} windows."
        )


def key_figures(export: ExportDocument) -> tuple[KeyFigure, ...]:
    """The few figures that a decision hangs on; what was not measured is left out."""
    student, artifacts = export.report.student, export.report.artifacts
    smallest = min(artifacts, key=lambda artifact: artifact.size_bytes)
    figures = [
        KeyFigure(figure=latency_text(one.latency_us), caption=f"{one.name}, median, one thread")
        for one in [one for one in timed(export) if one.kept][:1]
    ]
    metric = export.report.chosen_by
    score = artifacts[0].score(metric.name)
    if is_figure(score):
        figures.append(
            KeyFigure(
                figure=told(score, metric),
                caption=f"{metric.words} of {artifacts[0].name} on {export.report.windows.labelled} judging windows",
            )
        )
    figures.append(
        KeyFigure(
            figure=size_text(smallest.size_bytes),
            caption=f"the smallest artifact, {smallest.name}; the whole bundle {size_text(export.size_bytes)}",
        )
    )
    work = with_unit(significant(student.mflops), "MFLOP")
    figures.append(
        KeyFigure(figure=magnitude(student.parameters), caption=f"parameters ({student.preset}), {work} a window")
    )
    return tuple(figures)
