"""Models trained again without one domain at a time, and judged on it: does distillation help on unseen domains?

The training itself belongs to the experiments; this suite writes what follows from its figures.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmkd_models.evaluation.suites.inputs import SuiteInputs
from mmkd_report.schema.demo import LABELS_ONLY
from mmkd_report.schema.evaluation import WindowGain
from mmkd_report.schema.figures import CONTESTANTS, Measure
from mmkd_report.schema.judging import STUDENT, DomainSpread, ShiftFacts, SuiteResult, SuiteTable

_RIVALS = (CONTESTANTS["extra_trees"], CONTESTANTS["mini_rocket"])


def check(inputs: SuiteInputs) -> None:
    """Accept everything: the training was checked when it was planned."""


def run(inputs: SuiteInputs) -> SuiteResult:
    """Train and judge without each domain."""
    assert inputs.shift is not None
    return describe(inputs.shift(inputs.on_part))


def describe(facts: ShiftFacts) -> SuiteResult:
    """Return the verdict, the table and the notes that follow from the figures."""
    choice = "The groups that choose are not trained on either."
    if not facts.has_groups:
        choice = "The dataset has no groups: its own validation windows choose, and may come from any domain."
    unknown = f" {facts.unknown} windows without a value of {facts.by} were left out." if facts.unknown else ""
    notes = [f"{name}: {why}" for name, why in facts.absent.items()]
    if facts.time is not None:
        train, valid, test = facts.time.windows
        figures = ", ".join(f"{name} {_cell(value, facts.time.measure)}" for name, value in facts.time.figures.items())
        notes.append(
            f"The end of the campaign (trained on the first {train} windows, chosen by the next {valid}, judged on the "
            f"last {test}): {_heading(facts.time.measure)}: {figures}"
        )
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
        notes=tuple(notes),
    )


def _table(facts: ShiftFacts) -> SuiteTable:
    measure, names = facts.measure, list(facts.models)
    rows = [
        (
            one.name + (f" ({one.shared_groups} groups in training too)" if one.shared_groups else ""),
            str(one.windows),
            *(_cell(one.figures[name], measure) for name in names),
        )
        for one in facts.domains
    ]
    means = [
        _cell(one.mean, measure)
        + ("" if one.low is None or one.high is None else f" ({_cell(one.low, measure)} to {_cell(one.high, measure)})")
        for one in facts.models.values()
    ]
    rows.append(("mean (95 % CI)", "", *means))
    gains = []
    for gain in map(facts.gains.get, names):
        ends = "" if gain is None or gain.low is None else f" ({gain.low:+.1f} to {gain.high:+.1f})"
        gains.append("" if gain is None else f"{gain.mean:+.3g}{ends}")
    unit = f", {measure.gain_unit}" if measure.gain_unit else ""
    rows.append((f"gain of the student{unit} (95 % CI)", "", *gains))
    caption = f"{_heading(measure)} on the {facts.by} that was left out"
    return SuiteTable(caption=caption, heads=(facts.by, "windows", *names), rows=tuple(rows))


def _verdict(facts: ShiftFacts) -> Iterator[str]:
    measure, gain = facts.measure, facts.gains[LABELS_ONLY]
    yield (
        f"On the {facts.by} that was left out {_effect(gain)}: the student of {facts.sensor} has "
        f"{_figure(facts.models[STUDENT].mean, measure)} {measure.words}, {_points(gain.mean, measure)} compared with "
        f"labels only ({_interval(gain, measure)}, {len(facts.domains)} domains)"
    )
    lead, kept = facts.teacher_gain, "nothing"
    if lead.low is None or lead.low <= 0:
        yield (
            f"The teacher's own gain over labels only is not significant there: {_points(lead.mean, measure)} "
            f"({_interval(lead, measure)})"
        )
    else:
        if gain.mean > 0:
            kept = _points(gain.mean, measure).removeprefix("+")
        yield (
            f"The teacher gains {_points(lead.mean, measure).removeprefix('+')} there ({_interval(lead, measure)}); "
            f"the student keeps {kept}"
        )
    worst = facts.worst[STUDENT]
    figure = next(one.figures[STUDENT] for one in facts.domains if one.name == worst)
    yield f"Its worst {facts.by} is {worst}, with {_figure(figure, measure)}"
    for rival in _RIVALS:
        one = facts.gains.get(rival)
        if one is not None and one.high is not None and one.high < 0:
            better = DomainSpread(mean=-one.mean, low=-one.high, high=-(one.low or 0.0))
            yield (
                f"{rival} on the same sensor is better there than the student, by {_points(better.mean, measure)} "
                f"({_interval(better, measure)}): take it, or record another {facts.by}"
            )
    shared = sum(one.shared_groups for one in facts.domains)
    if shared:
        yield (
            f"{shared} groups of left-out domains have windows in training too, in other domains: these figures do not "
            "include the effect of a new group"
        )
    if facts.time is not None:
        measure, end = facts.time.measure, facts.time.gain
        yield (
            f"At the end of the campaign, trained on its beginning, {_effect(end)}: the student has "
            f"{_figure(facts.time.figures[STUDENT], measure)} {measure.words}, {_points(end.points, measure)} compared "
            f"with labels only ({_interval(end, measure)})"
        )


def _effect(gain: DomainSpread | WindowGain) -> str:
    if gain.low is None or gain.high is None:
        return "the effect of distillation is unknown"
    if gain.low > 0:
        return "distillation helps"
    return "distillation hurts" if gain.high < 0 else "the effect of distillation is not significant"


def _heading(measure: Measure) -> str:
    words = measure.words[:1].upper() + measure.words[1:]
    return f"{words}, {measure.unit}" if measure.unit else words


def _cell(value: float, measure: Measure) -> str:
    return f"{measure.scale * value:.1f}" if measure.is_share else f"{value:.3g}"


def _figure(value: float, measure: Measure) -> str:
    return f"{value:.1%}" if measure.is_share else f"{value:.3g} {measure.unit}".rstrip()


def _points(value: float, measure: Measure) -> str:
    return f"{value:+.1f} points" if measure.is_share else f"{value:+.3g} {measure.gain_unit}".rstrip()


def _interval(gain: DomainSpread | WindowGain, measure: Measure) -> str:
    if gain.low is None or gain.high is None:
        return "too few for an interval"
    ends = f"{gain.low:+.1f} to {gain.high:+.1f}" if measure.is_share else f"{gain.low:+.3g} to {gain.high:+.3g}"
    return f"95 % CI {ends}"
