"""The verdict: whole sentences that follow from the figures."""

from __future__ import annotations

import msgspec

from mmkd_models.evaluation.suites.verdict import verdict_of
from mmkd_report.schema.evaluation import DataFacts
from mmkd_report.schema.judging import (
    ConfidenceRow,
    FaultFigures,
    FaultsFacts,
    Gap,
    GapChange,
    GroupFigures,
    GroupMeasure,
    GroupsFacts,
    JudgedModel,
    JudgingDocument,
    ModelConfidence,
    RelativeError,
    TrustFacts,
)

DATA = DataFacts(name="line 3", sha256="d" * 64, part="test windows", windows=90, groups=6, labels=("ok", "worn"))
STUDENT = JudgedModel(name="s", path="s", sha256="a" * 64, role="distilled", modalities=("acc",), parameters=1)
LABELS = msgspec.structs.replace(STUDENT, name="b", path="b", role="labels alone")
EMPTY = JudgingDocument(
    data=DATA, kind="classification", seed=0, models=(STUDENT, LABELS), baseline="b", cautions=(), verdict=()
)


def fault(name: str, last: float, *, practised: bool) -> FaultFigures:
    return FaultFigures(
        name=name,
        what=f"all of {name}",
        practised={"s": practised, "b": None},
        errors={"s": (0.1, 0.1, 0.1, 0.1, last), "b": (0.2,) * 5},
        relative={"s": 0.5},
    )


def faults(relative: RelativeError) -> FaultsFacts:
    return FaultsFacts(
        sensors=("acc",),
        severities=(0.2, 0.4, 0.6, 0.8, 1.0),
        measure="balanced_accuracy",
        sound={"s": 0.1, "b": 0.2},
        faults=(
            fault("hum", 0.7, practised=False),
            fault("noise", 0.6, practised=True),
            fault("gap", 0.2, practised=True),
        ),
        left_out=(),
        relative={"s": relative},
    )


def told(**parts: object) -> list[str]:
    return list(verdict_of(msgspec.structs.replace(EMPTY, **parts)))


def test_faults_are_told_worst_first_and_beside_labels_alone() -> None:
    assert told(faults=faults(RelativeError(mean=0.8, low=0.7, high=0.95))) == [
        "The worst fault for s is hum: of 90.0% balanced accuracy 30.0% is left with all of hum",
        "Do not rely on it where a sensor may show hum or noise: half of what it knew is lost there",
        (
            "Teaching helps under faults: for s over all faults its error is 80% of that of b, which labels alone "
            "taught (95 % interval 70% to 95%)"
        ),
        "Record next: windows of sensors that show hum, which no training practised",
    ]


def test_a_rival_is_named_where_it_errs_less() -> None:
    rocket = msgspec.structs.replace(LABELS, name="MiniRocket", path="", role="rival", parameters=None)

    def beside(sound: float, errors: float) -> list[str]:
        found = faults(RelativeError(mean=0.5, low=0.4, high=0.65))
        given = tuple(
            msgspec.structs.replace(one, errors=one.errors | {"MiniRocket": (errors,) * 5}) for one in found.faults
        )
        found = msgspec.structs.replace(found, faults=given, sound=found.sound | {"MiniRocket": sound})
        return [one for one in told(faults=found, models=(STUDENT, LABELS, rocket)) if one.startswith("MiniRocket")]

    # s errs 0.1 with sound sensors and (1.1 + 1.0 + 0.6) / 15 = 0.18 over all faults
    assert beside(0.05, 0.1) == [
        "MiniRocket, which needs no teacher, errs less than s with sound sensors and over all faults: look at it first"
    ]
    assert beside(0.1, 0.17) == [
        "MiniRocket, which needs no teacher, errs less than s over all faults: look at it first"
    ]
    assert beside(0.2, 0.19) == []


def test_a_claim_needs_its_whole_interval_on_one_side() -> None:
    def third(low: float | None, high: float | None) -> str:
        return told(faults=faults(RelativeError(mean=1.0, low=low, high=high)))[2].partition(":")[0]

    assert third(1.01, 1.2) == "Teaching hurts under faults"
    assert third(0.9, 1.1) == "Whether teaching helps under faults is not certain"
    assert third(None, None) == (
        "For s over all faults its error is 100% of that of b, which labels alone taught; there are too few groups for "
        "an interval"
    )


def test_where_groups_are_too_few_more_are_to_be_recorded() -> None:
    def last(low: float | None, high: float | None) -> str:
        return told(faults=faults(RelativeError(mean=1.0, low=low, high=high)))[-1]

    assert last(None, None).endswith("; 5 groups or more that judge, for an interval under faults")
    assert "for an interval" not in last(0.9, 1.1)


def groups(change: GapChange, *, chance: float = 0.1) -> GroupsFacts:
    def value(name: str, accuracy: float, windows: int) -> GroupFigures:
        figures: dict[GroupMeasure, float] = {"accuracy": accuracy, "recall": accuracy, "calibration error": 0.1}
        return GroupFigures(value=name, windows=windows, is_judged=windows >= 30, figures={"s": figures, "b": figures})

    gap = Gap(gap=0.2, low=0.1, high=0.3, chance=chance, best="one", worst="two")
    return GroupsFacts(
        by="machine",
        least_windows=30,
        values=(value("one", 0.9, 40), value("two", 0.7, 50), value("three", 0.1, 5)),
        gaps={"accuracy": {"s": gap, "b": gap}},
        changes=(change,),
    )


def test_groups_are_told_by_their_ends_and_what_teaching_did() -> None:
    change = GapChange(measure="accuracy", change="amplified", low=0.02, high=0.08)
    assert told(groups=groups(change)) == [
        (
            "s serves machine two worst, with 70.0% accuracy, and one best, with 90.0%: a gap of 20.0 points (95 % "
            "interval 10.0 to 30.0)"
        ),
        "The gap of accuracy is amplified: +2.0 to +8.0 points beside that of b",
        "Record next: more of machine two; at least 30 windows of machine three",
    ]
    nothing = GapChange(measure="accuracy", change="no certain difference", low=-0.02, high=0.08)
    assert told(groups=groups(nothing))[1] == "Teaching changed no gap between machine values with certainty"


def test_a_gap_that_may_be_chance_asks_for_no_recordings_of_the_worst() -> None:
    nothing = GapChange(measure="accuracy", change="no certain difference", low=-0.02, high=0.08)
    assert told(groups=groups(nothing, chance=0.21))[-1] == "Record next: at least 30 windows of machine three"


def test_of_many_groups_with_few_windows_five_are_named() -> None:
    nothing = GapChange(measure="accuracy", change="no certain difference", low=-0.02, high=0.08)
    found = groups(nothing)
    few = tuple(msgspec.structs.replace(found.values[2], value=str(number)) for number in range(8))
    assert told(groups=msgspec.structs.replace(found, values=(*found.values[:2], *few)))[-1] == (
        "Record next: more of machine two; at least 30 windows of machine 0, 1, 2, 3, 4 and 3 more"
    )


def test_an_estimate_that_flatters_is_told_with_its_worst_fault() -> None:
    def row(condition: str, estimated: float, accuracy: float) -> ConfidenceRow:
        return ConfidenceRow(condition=condition, estimated=estimated, accuracy=accuracy, calibration_error=0.1)

    def trust(*broken: ConfidenceRow) -> TrustFacts:
        rows = (row("sound", 0.9, 0.88), *broken)
        return TrustFacts(severity=0.6, misleads_beyond=0.05, models={"s": ModelConfidence(rows=rows, coverages=())})

    assert told(confidence=trust(row("hum", 0.8, 0.6), row("gap", 0.7, 0.69))) == [
        "Without labels s would estimate its accuracy as 90.0% with sound sensors, where it is 88.0%",
        (
            "Do not trust its own estimate when a sensor breaks: it flatters under 1 of 2 faults, most under hum, "
            "80.0% for 60.0%"
        ),
    ]
    found = told(confidence=trust(row("gap", 0.6, 0.69)))
    assert len(found) == 2
    assert found[1] == "Its own estimate flatters under none of 1 faults by more than 5%"


def test_what_label_sets_promise_stands_beside_what_they_hold() -> None:
    def row(condition: str, covered: float) -> ConfidenceRow:
        return ConfidenceRow(condition=condition, estimated=0.9, accuracy=0.9, calibration_error=0.1, covered=covered)

    rows = (row("sound", 0.88), row("hum", 0.91), row("gap", 0.604))
    trust = TrustFacts(severity=0.6, misleads_beyond=0.05, models={"s": ModelConfidence(rows=rows, coverages=())})
    assert told(confidence=trust)[2:] == [
        (
            "Its label sets promise the true label in 90%: they hold it in 88.0% with sound sensors, and least, in "
            "60.4%, under gap"
        )
    ]
