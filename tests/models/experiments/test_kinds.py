"""`mmkd-study` on several labels at once and on numbers: table, page and words, in the kind's own figures."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from mmkd_app.commands.study import run_study
from mmkd_edge.errors import UsageError
from mmkd_models.data.folds import ALL
from mmkd_models.evaluation.rivals import Rivals
from mmkd_models.experiments.folder import fold_data
from mmkd_models.training.checkpoint import StudentCheckpoint, read_student
from mmkd_models.training.predict import logits_of
from tests.edge.said import said

SHORT = "--modality acc --grid --seeds 1 --steps 6 --teacher-steps 6 --teacher tiny --student tiny --no-latency"
OPTIONS = [*SHORT.split(), "--learning-rate", "0.01", "--rival", "extra_trees"]
KINDS = pytest.mark.parametrize("kind", [pytest.param("multi_label", marks=pytest.mark.slow), "regression"])


@dataclass(frozen=True, kw_only=True)
class Studied:
    """A finished study: what it printed, its document, its page and its students."""

    printed: str
    document: dict[str, Any]
    page: str
    students: dict[str, StudentCheckpoint]


@pytest.fixture(scope="module")
def studied(rigs, tmp_path_factory):
    """Labels only and the teacher's outputs on one fold of a kind, through the command."""
    return cache(lambda kind: _study(rigs[kind], tmp_path_factory.mktemp(kind)))


def _study(dataset, path):
    out = path / "study"
    arguments = [str(dataset.path), "-o", str(out), "--method", "logit", *OPTIONS]
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        run_study(arguments)
    assert ended.value.code == 0
    found = sorted(out.glob("trials/*/student.ckpt"))
    return Studied(
        printed=printed.getvalue(),
        document=json.loads((out / "study.json").read_text()),
        page=(out / "report.html").read_text(),
        students={one.parent.name.partition("-")[0]: read_student(one) for one in found},
    )


def figures_of(dataset, student):
    """On the test windows of fold 0, by plain sums."""
    test = fold_data(dataset, seed=0, labelled=ALL).test
    logits = logits_of(student.network(), test.with_modalities(("acc",)), modality="acc")
    if dataset.spec.task.kind == "multi_label":
        return {"subset_accuracy": float(((logits >= 0) == (test.labels == 1)).all(1).mean())}
    error = logits[:, 0].astype(float) - test.labels
    return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}


@KINDS
def test_scores_and_gains_are_those_of_the_checkpoints(studied, rigs, kind):
    alone, taught = studied(kind).document["entries"]
    if alone["method"] != "none":
        alone, taught = taught, alone
    ours, theirs = (figures_of(rigs[kind], studied(kind).students[name]) for name in ("logit", "none"))
    scale = 100 if kind == "multi_label" else -1  # points; of an error what is left of it, in its unit
    for name, figure in ours.items():
        assert taught["test"][name]["mean"] == pytest.approx(figure, rel=1e-5)
        assert alone["test"][name]["mean"] == pytest.approx(theirs[name], rel=1e-5)
        gain = taught["gain_points"][name]
        assert gain["mean"] == pytest.approx(scale * (figure - theirs[name]), rel=1e-3, abs=1e-4)
        assert gain["low"] is gain["high"] is None  # of one fold's few groups


@KINDS
def test_the_document_says_what_its_figures_are(studied, rigs, kind):
    document = studied(kind).document
    numbers = kind == "regression"
    assert document["dataset"]["kind"] == kind
    assert document["facts"]["metric"] == ("r2" if numbers else "macro_f1")
    assert document["facts"]["gain_metric"] == ("mae" if numbers else "")
    assert [one["name"] for one in document["measures"]] == list(document["entries"][0]["test"])
    assert document["measures"][0]["unit"] == ("rpm" if numbers else "%")
    fold = fold_data(rigs[kind], seed=0, labelled=ALL)
    parts = (fold.training.valid, fold.test)
    valid, test = Rivals(train=fold.training.train, parts=parts, modality="acc", seed=0).judge("extra_trees")
    (rival,) = document["rivals"]
    first = document["measures"][0]["name"]
    assert rival["test"][first]["mean"] == pytest.approx(test.scores.metric(first))
    assert rival["valid_score"]["mean"] == pytest.approx(valid.scores.metric(document["facts"]["metric"]))
    for entry in document["entries"]:
        assert set(entry["chance"]) == {"figure", "low", "high", "is_better"}


def test_words_tables_and_page_tell_errors_in_units(studied):
    found = studied("regression")
    entry = found.document["entries"][0]["test"]["mae"]["mean"]
    *_, last = found.printed.splitlines()
    title = " ".join(found.printed.partition("┏")[0].split())
    assert title == "rig, acc on groups never seen (1 fold), 100% labelled"
    assert last.startswith("wrote ")
    heads = ["Method", "MAE, rpm", "RMSE, rpm", "R²", "Pearson", "Gain, rpm", "Gap recovered, %"]
    table = found.page.partition('id="table"')[2]
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)[: len(heads)] == heads
    assert f'data-label="MAE, rpm" class="number">{entry:.1f}' in table
    for text in ("MAE, rpm", "Gain, rpm", "The number speed, 14 groups", "mean absolute error of"):
        assert text in found.page, text
    assert "Accuracy" not in found.page
    assert "points" not in found.page.partition("<main")[2].partition("</main>")[0]


@pytest.mark.slow
def test_a_study_of_labels_tells_them_in_percent(studied):
    found = studied("multi_label")
    for text in ("Macro-F1, %", "Mean precision, %", "All right, %", "2 labels, each on or off, 14 groups"):
        assert text in found.page, text
    assert "Balanced" not in found.page


def test_a_method_that_compares_classes_is_refused_with_the_trainings_reason(rigs, tmp_path):
    line = [str(rigs["regression"].path), "-o", str(tmp_path / "out"), *OPTIONS]
    assert said(UsageError, run_study, [*line, "--method", "dist"]) == (
        "method 'dist': expected a teacher and a student that can have it: recipe: term 'dist' compares classes that "
        "exclude each other, and regression has none; use term 'logit'"
    )
    assert said(UsageError, run_study, [*line, "--metric", "accuracy"]) == (
        "--metric: expected one of r2, pearson, got 'accuracy'; choose one of them"
    )
