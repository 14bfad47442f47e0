"""`mmkd-run --tune-alarm`: a rule chosen on recordings, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_edge.cli.run import shell_line
from mmkd_edge.cli.show import json_text
from mmkd_edge.errors import UsageError
from mmkd_station.commands.options import AlarmOptions, EngineOptions

if TYPE_CHECKING:
    from mmkd_edge import ModalitySpec
    from mmkd_station.alarms import AlarmRule
    from mmkd_station.sources.base import ReplayedRecording
    from mmkd_station.tuning import RuleScore, Tuned


def tune(
    bundle: Path,
    data: Path,
    rules: Sequence[AlarmRule],
    options: AlarmOptions,
    engine: EngineOptions,
    *,
    hop: int | None,
    as_json: bool,
) -> None:
    """Chooses a rule for the one label of `rules` and prints what it costs."""
    from mmkd_edge import EdgePredictor
    from mmkd_station.build import usual_hop
    from mmkd_station.tuning import tune_alarm

    if len(rules) != 1:
        raise UsageError(f"--tune-alarm: expected one --alarm LABEL to choose a rule for, got {len(rules)}; name one")
    with EdgePredictor.open(
        bundle,
        backend=engine.backend,  # type: ignore[arg-type] # it refuses what is none
        precision=engine.precision,  # type: ignore[arg-type]
        threads=engine.threads,
        reference=engine.reference,
    ) as predictor:
        tuned = tune_alarm(
            predictor,
            recorded(str(data), predictor.modality),
            label=rules[0].label,
            normal=options.normal or (),
            most_per_hour=options.false_alarms_per_hour,
            hop=usual_hop(predictor.entry) if hop is None else hop,
            cooldown_s=rules[0].cooldown_s,
        )
    if as_json:
        print(json_text(tuned))
        return
    _show(tuned, bundle, hop=hop, reference=engine.reference)


def recorded(place: str, modality: ModalitySpec) -> list[ReplayedRecording]:
    """The recordings of a dataset, for a student's modality."""
    from mmkd_models.data.for_devices import replayed
    from mmkd_station.sources.base import ReplayedRecording

    return [
        ReplayedRecording(rows=one.rows, name=one.name, label=one.label, group=one.group, split=one.split)
        for one in replayed(place, modality)
    ]


def _show(tuned: Tuned, bundle: Path, *, hop: int | None, reference: Path | None) -> None:
    rule = tuned.rule
    print(f"{rule.label} against {', '.join(tuned.normal)}: the best of {tuned.tried} rules on validation recordings")
    print(
        f"with at most {tuned.most_per_hour:g} false alarms an hour; then, on the test recordings, which chose nothing:"
    )
    for name, found in (("each result an alarm", tuned.before), ("episodes by the rule", tuned.on_test)):
        print(f"  {name}: {_words(found)}")
    print(f"  on the validation recordings that chose it: {_words(tuned.on_valid)}")
    print("a recording begins where its state begins, so that a delay has the first full window in it")
    print(f"next: {next_line(rule, bundle, hop=hop, reference=reference)}")


def next_line(rule: AlarmRule, bundle: Path, *, hop: int | None, reference: Path | None) -> str:
    """The line that runs a bundle with a rule, as it was chosen: the rule counts results, which the hop makes."""
    options: list[object] = ["--alarm", rule.label, "--confirm", rule.confirm, "--release", rule.release]
    options += ["--cooldown", f"{rule.cooldown_s:g}s", "--min-probability", f"{rule.min_probability:g}"]
    options += [] if hop is None else ["--hop", hop]
    options += [] if reference is None else ["--reference", reference]
    return shell_line("mmkd-run", bundle, "--source", "SOURCE", *options)


def _words(found: RuleScore) -> str:
    parts = []
    if found.false_alarms_per_hour is not None and found.false_alarms_interval is not None:
        low, high = found.false_alarms_interval
        parts.append(
            f"{found.false_alarms} false alarm{'s' * (found.false_alarms != 1)} in {found.normal_hours:.2f} h, "
            f"{found.false_alarms_per_hour:.2f} an hour ({low:.2f} to {high:.2f})"
        )
        if found.false_alarms_per_day is not None:
            parts.append(f"{found.false_alarms_per_day:.1f} a day")
    if found.detected_interval is not None:
        low, high = found.detected_interval
        parts.append(
            f"{found.detected} of {found.recordings} recordings detected ({100 * low:.0f} to {100 * high:.0f} %)"
        )
    if found.delay_s is not None and found.longest_delay_s is not None:
        parts.append(f"half of them within {found.delay_s:.1f} s, all within {found.longest_delay_s:.1f} s")
    return "; ".join([*parts, f"{found.groups} groups"])
