"""How `mmkd-evaluate` shows a bundle: scores, calibration, and label sets at several error levels."""

from __future__ import annotations

from rich.console import Console

from mmkd_edge.command.tables import WholeWords
from mmkd_models.evaluate.confidence_text import coverage_table, groups_text, reliability_text
from mmkd_models.metrics.measures import measure_named
from mmkd_report.documents.evaluation import BundleEvaluation


def show_bundle(report: BundleEvaluation, console: Console) -> None:
    """Prints what was measured."""
    from mmkd_report.words.terminal import guessing_line

    data = report.data
    console.print(
        f"{report.bundle}: {report.model_id}, on {data.windows} {data.part} of {data.name} ({data.apart})",
        soft_wrap=True,
    )
    for caution in report.cautions:
        console.print(f"caution: {caution}", soft_wrap=True)
    for artifact in report.artifacts:
        scores = artifact.scores
        console.print(
            f"{artifact.file} in {artifact.backend}: accuracy {scores.accuracy:.1%}, balanced accuracy "
            f"{scores.balanced_accuracy:.1%}, macro-F1 {scores.macro_f1:.1%}",
            soft_wrap=True,
        )
        console.print(guessing_line(artifact.guessing, measure_named("balanced_accuracy")), soft_wrap=True)
        facts = artifact.confidence
        if facts is None:
            error = artifact.reliability.calibration_error
            console.print(f"calibration error {error:.3f}; not calibrated: it has no label sets", soft_wrap=True)
            continue
        console.print(reliability_text(facts), soft_wrap=True)
        console.print(WholeWords(coverage_table(facts.coverages)))
        for line in groups_text(facts.coverages):
            console.print(line, soft_wrap=True)
