"""Models retrained without one domain and judged on it."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_documents.demo import LABELS_ONLY
from mmkd_documents.figures import MODEL_NAMES, Interval
from mmkd_documents.judging import STUDENT, ShiftFacts, SuiteResult, SuiteTable
from mmkd_models.evaluation.suites.inputs import (
    Suite,
    SuiteInputs,
    cell_text,
    figure_text,
    gain_cell,
    heading_text,
    interval_text,
    points_text,
)

_RIVALS = (MODEL_NAMES["extra_trees"], MODEL_NAMES["mini_rocket"])


def run(inputs: SuiteInputs) -> SuiteResult:
    """Train and judge without each domain."""
    assert inputs.shift is not None
    return describe(inputs.shift(inputs.on_part))


def describe(facts: ShiftFacts) -> SuiteResult:
    """Return verdict, table and notes."""
    choice = "The groups that choose are not trained on either."
    if not facts.has_groups:
        choice = "The dataset has no groups: its own validation windows choose, and may come from any domain."
    unknown = f" {facts.unknown} windows without a value of {facts.by} were left out." if facts.unknown else ""
    return SuiteResult(
        title="On unseen domains",
        lead=(
            f"Trained again without one {facts.by} at a time and judged on it: a {facts.teacher} teacher of all "
            f"sensors ({facts.steps[0]} steps), and for {facts.sensor} a {facts.student} student distilled from it and "
            f"one trained on labels only ({facts.steps[1]} steps each), {facts.labels}. {choice}{unknown} Intervals "
            "are 95 % over domains, by Student's t."
        ),
        facts=facts,
        verdict=tuple(_verdict(facts)),
        record=(f"more like {facts.by} {facts.worst[STUDENT]}",),
        tables=(_table(facts),),
        notes=tuple(f"{name}: {why}" for name, why in facts.absent.items()),
    )


def _table(facts: ShiftFacts) -> SuiteTable:
    measure, names = facts.measure, list(facts.models)
    rows = [
        (
            domain.name + (f" ({domain.shared_groups} groups in training too)" if domain.shared_groups else ""),
            str(domain.windows),
            *(cell_text(domain.figures[name], measure) for name in names),
        )
        for domain in facts.domains
    ]
    means = []
    for spread in facts.models.values():
        ends = " to ".join(cell_text(end, measure) for end in (spread.low, spread.high) if end is not None)
        means.append(cell_text(spread.mean, measure) + (f" ({ends})" if ends else ""))
    rows.append(("mean (95 % CI)", "", *means))
    gains = ["" if gain is None else gain_cell(gain, measure) for gain in map(facts.gains.get, names)]
    unit = f", {measure.gain_unit}" if measure.gain_unit else ""
    rows.append((f"gain of the student{unit} (95 % CI)", "", *gains))
    caption = f"{heading_text(measure)} on the {facts.by} that was left out"
    return SuiteTable(caption=caption, heads=(facts.by, "windows", *names), rows=tuple(rows))


def _verdict(facts: ShiftFacts) -> Iterator[str]:
    measure, gain = facts.measure, facts.gains[LABELS_ONLY]
    score, effect = figure_text(facts.models[STUDENT].mean, measure), "the effect of distillation is not significant"
    if gain.low is None or gain.high is None:
        effect = "the effect of distillation is unknown"
    elif gain.low > 0 or gain.high < 0:
        effect = "distillation helps" if gain.low > 0 else "distillation hurts"
    yield (
        f"On the {facts.by} that was left out {effect}: the student of {facts.sensor} has {score} "
        f"{measure.words}, {points_text(gain.mean, measure)} compared with labels only "
        f"({interval_text(gain, measure)}, {len(facts.domains)} domains)"
    )
    lead, kept = facts.teacher_gain, "nothing"
    if lead.low is None or lead.low <= 0:
        yield (
            f"The teacher's own gain over labels only is not significant there: {points_text(lead.mean, measure)} "
            f"({interval_text(lead, measure)})"
        )
    else:
        if gain.mean > 0:
            kept = points_text(gain.mean, measure).removeprefix("+")
        ahead = points_text(lead.mean, measure).removeprefix("+")
        yield f"The teacher gains {ahead} there ({interval_text(lead, measure)}); the student keeps {kept}"
    worst = facts.worst[STUDENT]
    figure = next(domain.figures[STUDENT] for domain in facts.domains if domain.name == worst)
    yield f"Its worst {facts.by} is {worst}, with {figure_text(figure, measure)}"
    for rival in _RIVALS:
        domain = facts.gains.get(rival)
        if domain is not None and domain.high is not None and domain.high < 0:
            better = Interval(mean=-domain.mean, low=-domain.high, high=-(domain.low or 0.0))
            yield (
                f"{rival} on the same sensor is better there than the student, by {points_text(better.mean, measure)} "
                f"({interval_text(better, measure)}): take it, or record another {facts.by}"
            )
    shared = sum(domain.shared_groups for domain in facts.domains)
    if shared:
        yield (
            f"{shared} groups of left-out domains have windows in training too, in other domains: these figures do not "
            "include the effect of a new group"
        )


SUITE = Suite(run=run, needs="shift")
