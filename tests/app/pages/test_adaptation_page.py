"""What adapting was worth: sentences, figures and tables of one page."""

import re

import msgspec

from mmkd_app.pages.adaptation import answer, render_adaptation
from mmkd_app.words import for_terminal
from mmkd_documents.adaptation import AdaptationDocument, DomainFacts, MethodResult

TEACHER = MethodResult(
    method="teacher",
    estimate=0.851,
    gain_points=10.6,
    standard_error_points=4.7,
    old_score=0.656,
    forgotten_points=0.5,
    forgotten_error_points=0.7,
    class_fractions=(0.45, 0.55),
    seconds=2.0,
)
STATISTICS = MethodResult(
    method="statistics",
    estimate=0.787,
    gain_points=4.3,
    standard_error_points=6.2,
    old_score=0.633,
    forgotten_points=2.8,
    forgotten_error_points=0.4,
    refusals=("the old domain loses 2.8 points, standard error 0.4, more than 1",),
    class_fractions=(0.2, 0.8),
    seconds=1.0,
)
DOCUMENT = AdaptationDocument(
    student_sha256="1" * 64,
    teacher_sha256="2" * 64,
    modality="acc",
    metric="balanced_accuracy",
    new=DomainFacts(name="line two", sha256="3" * 64, learn=90, judge=45),
    old=DomainFacts(name="carried windows", sha256=None, learn=128, judge=128),
    estimated_by="agreement",
    estimate=0.745,
    old_score=0.661,
    max_forget_points=1.0,
    methods=(STATISTICS, TEACHER),
    chosen="teacher",
    written="adapted.ckpt",
    classes=("idle", "busy"),
    class_fractions=(0.1, 0.9),
    reference_fractions=(0.5, 0.5),
)


def told(**changed):
    return [for_terminal(one) for one in answer(msgspec.structs.replace(DOCUMENT, **changed))]


def test_the_answer_says_what_rose_and_what_was_lost_or_that_nothing_may_be_written():
    assert told() == [
        (
            "The method 'teacher' was written to adapted.ckpt: on line two the estimate rises from 74.5 % to 85.1 % "
            "(+10.6 points, standard error 4.7)"
        ),
        "On carried windows balanced accuracy goes from 66.1 % to 65.6 %; a loss of 1.0 points is allowed",
    ]
    assert told(written=None)[0].startswith("The method 'teacher' would be written: on line two")
    assert told(chosen=None, written=None, methods=(STATISTICS,)) == [
        (
            "No method of adapting to line two passed: the reasons are below. The student stays unchanged, at 74.5 "
            "% there and 66.1 % on carried windows"
        )
    ]


def cells_of(page, row):
    line = re.search(rf'rowheader">{row}</th>(.*?)</tr>', page, re.DOTALL)
    assert line is not None
    return [for_terminal(one) for one in re.findall(r"<td[^>]*>(.*?)</td>", line[1])]


def test_every_way_has_its_figures_verdict_and_shares_of_classes():
    page = render_adaptation(DOCUMENT)
    assert cells_of(page, "unchanged") == ["74.5", "", "66.1", "", ""]
    assert cells_of(page, "teacher") == ["85.1", "+10.6 ± 4.7", "65.6", "-0.5 ± 0.7", "chosen"]
    assert cells_of(page, "statistics")[2:] == [
        "63.3",
        "-2.8 ± 0.4",
        "the old domain loses 2.8 points, standard error 0.4, more than 1",
    ]
    assert cells_of(page, "idle") == ["50", "10", "20", "45"]
    weighted = msgspec.structs.replace(DOCUMENT, estimated_by="weighted", reference_fractions=())
    assert cells_of(render_adaptation(weighted), "idle") == ["10", "20", "45"]
