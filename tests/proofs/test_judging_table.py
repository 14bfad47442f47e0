"""The tables of docs/results/evaluation.md, from documents of `mmkd-evaluate --suite`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mmkd_report.documents.evaluation import DataFacts
from mmkd_report.documents.figures import Measure
from mmkd_report.documents.judging import (
    ConfidenceRow,
    DomainFigures,
    DomainSpread,
    FaultFigures,
    FaultsFacts,
    Gap,
    GapChange,
    GroupFigures,
    GroupsFacts,
    JudgedModel,
    JudgingDocument,
    ModelConfidence,
    RelativeError,
    ShiftFacts,
    TrustFacts,
)
from proofs.judging_table import tables

DATA = DataFacts(name="line", sha256="d" * 64, part="windows of fold 0", windows=90, groups=6, labels=("ok", "worn"))
STUDENT = JudgedModel(name="s", path="s", sha256="a" * 64, role="distilled", modalities=("acc",), parameters=1)
LABELS = msgspec.structs.replace(STUDENT, name="b", path="b", role="labels alone")
TEACHER = msgspec.structs.replace(STUDENT, name="t", path="t", role="teacher", modalities=("acc", "mic"))
ROCKET = msgspec.structs.replace(STUDENT, name="MiniRocket", path="", role="rival", parameters=None)
EMPTY = JudgingDocument(
    data=DATA,
    kind="classification",
    seed=0,
    models=(STUDENT, LABELS, TEACHER, ROCKET),
    baseline="b",
    cautions=(),
    verdict=(),
)


def fault(name: str, student: float, relative: float) -> FaultFigures:
    return FaultFigures(
        name=name,
        what=name,
        practised={},
        errors={"s": (student,) * 5, "b": (0.4,) * 5, "t": (0.1,) * 5, "MiniRocket": (0.1, 0.2, 0.3, 0.4, 0.5)},
        relative={"s": relative, "t": 0.25, "MiniRocket": 0.75},
    )


def told(document: JudgingDocument) -> list[str]:
    return told_all([document])


def told_all(documents: Sequence[JudgingDocument]) -> list[str]:
    return [line for table in tables(documents) for line in table.splitlines()]


def test_errors_are_means_over_faults_beside_what_is_left_of_labels_alone() -> None:
    found = FaultsFacts(
        sensors=("acc",),
        severities=(0.2, 0.4, 0.6, 0.8, 1.0),
        measure="balanced_accuracy",
        sound={"s": 0.1, "b": 0.2, "t": 0.05, "MiniRocket": 0.15},
        faults=(fault("hum", 0.6, 1.5), fault("gap", 0.2, 0.5)),
        left_out=(),
        relative={
            "s": RelativeError(mean=0.9, low=0.8, high=1.02),
            "t": RelativeError(mean=0.25, low=None, high=None),
            "MiniRocket": None,
        },
    )
    assert told(msgspec.structs.replace(EMPTY, faults=found)) == [
        (
            "| error, sound / under faults, % | windows, groups | teacher | labels alone | student | MiniRocket |"
            " worst fault of the student |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|",
        "| line acc | 90, 6 | 5.0 / 10.0 | 20.0 / 40.0 | 10.0 / 40.0 | 15.0 / 30.0 | hum |",
        (
            "| error of labels alone that is left, % | teacher | student | MiniRocket |"
            " faults with less error of the student |"
        ),
        "|---|---:|---:|---:|---:|",
        "| line acc | 25 (few groups) | 90 (80 to 102) | - | 1 of 2 |",
    ]


def test_folds_of_a_set_are_pooled_and_only_the_first_has_rows_of_its_own() -> None:
    def fold(number: int, sound: float, left: float, wider: float) -> JudgingDocument:
        gap = Gap(gap=0.1, low=0.0, high=0.2, chance=0.1, best="1", worst="2")
        gaps = {"s": msgspec.structs.replace(gap, gap=0.1 + wider), "b": gap}
        return msgspec.structs.replace(
            EMPTY,
            data=msgspec.structs.replace(DATA, part=f"windows of fold {number}"),
            faults=FaultsFacts(
                sensors=("acc",),
                severities=(0.2, 0.4, 0.6, 0.8, 1.0),
                measure="balanced_accuracy",
                sound={"s": sound, "b": 0.2, "t": 0.05, "MiniRocket": 0.15},
                faults=(fault("hum", sound, 0.5),),
                left_out=(),
                relative={"s": RelativeError(mean=left, low=None, high=None), "MiniRocket": None},
            ),
            groups=GroupsFacts(by="group", least_windows=30, values=(), gaps={"accuracy": gaps}, changes=()),
        )

    # means and half widths by hand: of 1 and 3 points the mean is 2, s = sqrt 2, t(1 df) = 12.706, reach 12.706
    lines = told_all([fold(0, 0.19, 0.9, 0.01), fold(1, 0.17, 0.92, 0.03)])
    assert [line for line in lines if line.startswith("| line acc | 90, 6 |")] == [
        "| line acc | 90, 6 | 5.0 / 10.0 | 20.0 / 40.0 | 19.0 / 19.0 | 15.0 / 30.0 | hum |"
    ]
    assert lines[-3:] == [
        (
            "| mean over folds | folds, windows, groups | student better by, points: sound | under faults |"
            " error left, %: teacher | student | MiniRocket | gap wider by, points: accuracy | recall |"
            " calibration error |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        (
            "| line acc | 2, 180, 12 | 2.0 (-10.7 to 14.7) | 22.0 (9.3 to 34.7) | - | 91.0 (78.3 to 103.7) | - |"
            " 2.0 (-10.7 to 14.7) | - | - |"
        ),
    ]


def test_a_set_without_a_teacher_has_its_models_in_the_right_columns() -> None:
    found = FaultsFacts(
        sensors=("acc",),
        severities=(0.2, 0.4, 0.6, 0.8, 1.0),
        measure="balanced_accuracy",
        sound={"s": 0.1, "b": 0.2, "t": 0.05, "MiniRocket": 0.15},
        faults=(fault("hum", 0.6, 1.5),),
        left_out=(),
        relative={"s": RelativeError(mean=0.9, low=0.8, high=1.02)},
    )
    whole = msgspec.structs.replace(EMPTY, faults=found)
    data = msgspec.structs.replace(DATA, name="press")
    lines = told_all([msgspec.structs.replace(whole, data=data, models=(STUDENT, LABELS, ROCKET)), whole])
    assert lines[2:4] == [
        "| press acc | 90, 6 | - | 20.0 / 40.0 | 10.0 / 60.0 | 15.0 / 30.0 | hum |",
        "| line acc | 90, 6 | 5.0 / 10.0 | 20.0 / 40.0 | 10.0 / 60.0 | 15.0 / 30.0 | hum |",
    ]
    assert lines[6:9] == [
        "| press acc | - | 90 (80 to 102) | - | 0 of 1 |",
        "| line acc | - | 90 (80 to 102) | - | 0 of 1 |",
        "| mean over sets | - | 90 (90 to 90) | - |  |",
    ]


def test_gaps_stand_beside_what_chance_gives() -> None:
    one = Gap(gap=0.1, low=0.05, high=0.2, chance=0.12, best="1", worst="2")
    groups = GroupsFacts(
        by="group",
        least_windows=30,
        values=tuple(GroupFigures(value=value, windows=40, is_judged=True, figures={}) for value in ("1", "2")),
        gaps={"accuracy": {"s": one, "b": one, "t": None}},
        changes=(GapChange(measure="accuracy", change="no certain difference", low=-0.05, high=0.03),),
    )
    assert told(msgspec.structs.replace(EMPTY, groups=groups))[2:] == [
        (
            "| line acc | accuracy, 2 groups | - | 10.0 (5.0 to 20.0; chance 12.0) | 10.0 (5.0 to 20.0; chance 12.0) |"
            " -5.0 to +3.0 | no certain difference |"
        )
    ]
    few = GroupFigures(value="1", windows=3, is_judged=False, figures={})
    unknown = msgspec.structs.replace(groups, values=(few,), gaps={}, changes=())
    assert told(msgspec.structs.replace(EMPTY, groups=unknown))[2:] == [
        "| line acc | not known: 0 of 1 groups have 30 windows |  |  |  |  |  |"
    ]


def test_estimates_name_the_fault_that_flatters_most() -> None:
    rows = [("sound", 0.8, 0.79), ("hum", 0.9, 0.5), ("gap", 0.7, 0.66)]
    one = ModelConfidence(
        rows=tuple(ConfidenceRow(condition=a, estimated=b, accuracy=c, calibration_error=0.1) for a, b, c in rows),
        coverages=(),
    )
    trust = TrustFacts(severity=0.6, misleads_beyond=0.05, models=dict.fromkeys(("s", "b", "t", "MiniRocket"), one))
    found = told(msgspec.structs.replace(EMPTY, confidence=trust))
    assert found[4] == "| line acc | student | 80.0 / 79.0 | 1 of 2 | hum 90.0 / 50.0 |"


def test_a_domain_left_out_is_a_row_above_the_mean() -> None:
    spread = DomainSpread(mean=0.8, low=0.7, high=0.9)
    shift = ShiftFacts(
        by="group",
        sensor="acc",
        teacher="tiny",
        student="tiny",
        labels="10% of the labels",
        steps=(1, 1),
        measure=Measure(name="accuracy", words="accuracy", short="Acc", scale=100.0),
        domains=(DomainFigures(name="7", windows=50, shared_groups=0, figures={"student": 0.8, "labels alone": 0.75}),),
        models={"student": spread, "labels alone": spread},
        worst={},
        gains={"labels alone": DomainSpread(mean=5.0, low=-1.0, high=11.0)},
        teacher_gain=spread,
        absent={},
        time=None,
    )
    assert told(msgspec.structs.replace(EMPTY, shift=shift))[2:] == [
        "| 7 | 50 | 80.0 | 75.0 |",
        "| mean |  | 80.0 (70.0 to 90.0) | 80.0 (70.0 to 90.0) |",
        "| student better by |  |  | 5.0 (-1.0 to 11.0) |",
    ]
