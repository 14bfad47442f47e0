"""Several labels at once, and numbers: what a training sees, learns, keeps and refuses; on tiny synthetic machines."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, r2_score

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.evaluate import run_evaluate
from mmkd_app.commands.train import run_train
from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.batches import BatchSource
from mmkd_models.distillation.recipe import Recipe, check_terms
from mmkd_models.evaluation.rivals import RIVALS, Rivals
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm, logit_loss
from mmkd_models.losses.task import TaskTerm, task_loss
from mmkd_models.losses.term import Goal, constant, training_goal
from mmkd_models.metrics.scores import label_scores, scores_from_document, scores_from_logits, value_scores
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig
from mmkd_models.networks.student import ExportStudent, Student
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TeacherFile, read_student, read_teacher, write_student, write_teacher
from mmkd_models.training.inputs import TrainingRequest, TrainingRun
from mmkd_models.training.predict import logits_of, scores_of
from mmkd_models.training.trainings import train_teacher, train_transformer
from tests.edge.said import said
from tests.models.conftest import data_of

ENCODER = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
STUDENT = StudentConfig(preset="test", encoder=ENCODER)
TEACHER = TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1, modality_dropout=0.0)
LOGITS = Recipe(terms=(LogitTerm(weight=constant(1.0)),))
AND_LABELS = Recipe(terms=(LogitTerm(weight=constant(1.0)), TaskTerm(weight=constant(1.0))))


def run_of(kind, *, steps=6):
    metric = "macro_f1" if kind == "multi_label" else "r2"
    return TrainingRun(
        train=TrainConfig(steps=steps, batch=16, eval_every=max(3, steps // 4), seed=3, metric=metric, ema_decay=0.9),
        augment=AugmentConfig(channel_dropout=0.0, span_dropout=0.0),
    )


KINDS = pytest.mark.parametrize("kind", ["multi_label", "regression"])


# ---- what a batch holds


def test_mixed_targets_are_mixed_rows_of_labels_and_mixed_numbers(rigs):
    for kind, dataset in rigs.items():
        train = dataset.split("train")
        batch = BatchSource(train, AugmentConfig(mixup=1.0), batch=16, labelled_fraction=1.0, seed=0).at(0)
        plain = BatchSource(train, AugmentConfig(mixup=0.0), batch=16, labelled_fraction=1.0, seed=0).at(0)
        rows = train.labels[plain.index.numpy()].reshape(16, -1).astype(np.float32)
        np.testing.assert_array_equal(plain.targets.numpy(), rows)
        assert (plain.labelled == 1).all()
        low, high = rows.min(0), rows.max(0)
        assert ((batch.targets.numpy() >= low) & (batch.targets.numpy() <= high)).all()
        assert not np.isin(batch.targets.numpy()[:, 0], rows[:, 0]).all(), kind


# ---- losses by kind


def test_labels_and_teachers_are_compared_by_the_loss_of_the_kind():
    logits, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    targets, one = torch.tensor([[1.0, 0.0]]), torch.ones(1)
    several = Goal(kind="multi_label")
    expected = (np.log(2) + np.log1p(np.exp(2.0))) / 2
    assert float(task_loss(several, logits, targets, weight=one)) == pytest.approx(expected, rel=1e-6)
    found = logit_loss(several, logits, teacher, temperature=2.0)
    sure = 1 / (1 + np.exp(-1.0))  # KL of a coin from a probability, mean of 0 and this, times T^2
    assert float(found) == pytest.approx(4 * (np.log(0.5 / sure) + np.log(0.5 / (1 - sure))) / 2 / 2, rel=1e-5)
    number = Goal(kind="regression", spread=10.0)
    values, truth = torch.tensor([[105.0], [130.0]]), torch.tensor([[100.0], [100.0]])
    # 0.5 and 3 standard deviations away: 0.125 and 3 - 0.5
    assert float(task_loss(number, values, truth, weight=torch.ones(2))) == pytest.approx((0.125 + 2.5) / 2)
    away = torch.tensor([[115.0], [140.0]])  # one deviation away, rising alike: Huber 0.5, correlation 1
    assert float(logit_loss(number, values, away, temperature=2.0)) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(("term", "kind"), [(DkdTerm, "multi_label"), (DistTerm, "regression")])
def test_what_makes_no_sense_for_a_kind_is_refused_by_name(term, kind):
    assert said(UsageError, check_terms, Recipe(terms=(term(weight=constant(1.0)),)), kind=kind) == (
        f"recipe: term '{term.__struct_config__.tag}' compares classes that exclude each other, and {kind} has none; "
        "use term 'logit'"
    )


# ---- metrics


def test_scores_are_those_of_scikit_learn_and_count_a_label_where_it_is_answered():
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=(50, 3)) < 0.4).astype(np.uint8)
    logits = np.round(truth + rng.normal(size=(50, 3)), 1).astype(np.float32)  # rounded: some are equal
    scores = label_scores(truth, logits, threshold=0.6)
    answers = 1 / (1 + np.exp(-logits)) >= 0.6
    assert scores.macro_f1 == pytest.approx(f1_score(truth, answers, average="macro"))
    assert scores.mean_average_precision == pytest.approx(average_precision_score(truth, logits, average="macro"))
    assert scores.subset_accuracy == pytest.approx((truth == answers).all(1).mean())
    assert np.array(scores.counts).sum(1).tolist() == [50, 50, 50]
    share = scores.subset_accuracy
    assert scores.standard_error("subset_accuracy") == pytest.approx(np.sqrt(share * (1 - share) / 50))
    truth = np.array([[1, 0], [1, 0]], dtype=np.uint8)
    assert label_scores(truth, np.float32([[1, -1], [1, -1]]), threshold=0.5).macro_f1 == 1.0
    assert label_scores(truth, np.float32([[1, 1], [1, -1]]), threshold=0.5).macro_f1 == 0.5
    nothing = label_scores(np.zeros((2, 2), dtype=np.uint8), np.float32([[-1, -1], [-1, -1]]), threshold=0.5)
    assert (nothing.macro_f1, nothing.mean_average_precision, nothing.standard_error("macro_f1")) == (1.0, 1.0, 0.0)
    rng = np.random.default_rng(0)
    truth = rng.normal(1000, 50, 40).astype(np.float32)
    answers = truth + rng.normal(5, 20, 40).astype(np.float32)
    scores = value_scores(truth, answers)
    assert scores.r2 == pytest.approx(r2_score(truth, answers))
    assert scores.pearson == pytest.approx(np.corrcoef(truth, answers)[0, 1])
    assert scores.mae == pytest.approx(np.abs(truth - answers).mean(), rel=1e-5)
    assert scores.rmse == pytest.approx(np.sqrt(np.square(truth - answers).mean()), rel=1e-5)
    assert scores.standard_error("pearson") == pytest.approx((1 - scores.pearson**2) / np.sqrt(40))
    still = value_scores(np.float32([3, 3]), np.float32([3, 4]))
    assert (still.r2, still.pearson) == (0.0, 0.0)


def test_scores_of_every_kind_survive_a_document():
    truth, logits = np.array([[1, 0], [0, 1]], dtype=np.uint8), np.float32([[1, -1], [-1, 1]])
    for labels, raw, task in (
        (np.array([0, 1]), logits, TaskSpec(labels=("a", "b"))),
        (truth, logits, TaskSpec(kind="multi_label", labels=("a", "b"))),
        (np.float32([1, 2]), logits[:, :1], TaskSpec(kind="regression", labels=("t",))),
    ):
        scores = scores_from_logits(labels, raw, task)
        assert scores_from_document(msgspec.to_builtins(scores)) == scores


# ---- trainings


@KINDS
def test_teacher_baseline_and_student_are_trained_and_kept(rigs, tmp_path, kind):
    dataset, run = rigs[kind], run_of(kind)
    data = data_of(dataset, fraction=0.5)
    teacher = train_teacher(data, TEACHER, run)
    write_teacher(tmp_path / "teacher.ckpt", teacher)
    teacher = read_teacher(tmp_path / "teacher.ckpt")
    assert teacher.task == dataset.spec.task
    baseline = train_transformer(TrainingRequest(data, "acc", STUDENT, run))
    taught_by = [TeacherFile(checkpoint=teacher, sha256="ab" * 32)]
    pair = data.for_pair(["acc", "gyro"], "acc")
    for checkpoint in (baseline, train_transformer(TrainingRequest(pair, "acc", STUDENT, run, taught_by, AND_LABELS))):
        write_student(tmp_path / "student.ckpt", checkpoint)
        again = read_student(tmp_path / "student.ckpt")
        valid = dataset.split("valid").with_modalities(("acc",))
        score = scores_of(again.network(), valid, modality="acc").metric(run.train.metric)
        assert score == pytest.approx(again.facts.score)
        assert again.carried.labels.dtype == dataset.split("valid").labels.dtype
        np.testing.assert_array_equal(again.carried.labels, dataset.split("valid").labels)


def test_a_regression_carries_the_scale_of_the_labels_it_saw_and_its_graph_answers_in_the_unit(rigs):
    """Untrained, a network answers near the mean of the targets; its first output says how many deviations away."""
    data = data_of(rigs["regression"], fraction=0.5)
    student = train_transformer(TrainingRequest(data, "acc", STUDENT, run_of("regression")))
    known = data.train.labels[data.train.labelled].astype(np.float64)
    assert len(known) < len(data.train)
    assert float(student.state["answer.mean"]) == pytest.approx(known.mean(), rel=1e-6)
    assert float(student.state["answer.std"]) == pytest.approx(known.std(), rel=1e-6)
    assert training_goal(data.train) == Goal(kind="regression", spread=pytest.approx(known.std()))
    of_classes = Student(ModalitySpec(name="acc", channels=("x",), rate_hz=20.0, samples=40), 2, STUDENT)
    assert not any(name.startswith("answer") for name in of_classes.state_dict())
    network = student.network()
    values, present = torch.randn(4, 40, 2), torch.ones(4, 40, 2)
    with torch.no_grad():
        deviations, value = ExportStudent(network).eval()(values, present)
        torch.testing.assert_close(value, network(values, present).logits)
    torch.testing.assert_close(value, deviations * network.answer.std + network.answer.mean)
    assert ((value > 900) & (value < 1500)).all()


@pytest.mark.parametrize("kind", ["regression", pytest.param("multi_label", marks=pytest.mark.slow)])
def test_training_learns_what_the_windows_tell(rigs, kind):
    """The speed stands in the spectrum of `acc`: more steps than elsewhere, and far above guessing."""
    run = run_of(kind, steps=80)
    data = data_of(rigs[kind])
    teacher = train_teacher(data, TEACHER, run)
    test = rigs[kind].split("test")
    # Chance gives about 0.5 and 0.
    assert scores_of(teacher.network(), test, modality=None).metric("macro_f1" if kind == "multi_label" else "r2") > 0.7
    taught_by = [TeacherFile(checkpoint=teacher, sha256="ab" * 32)]
    student = train_transformer(TrainingRequest(data, "acc", STUDENT, run, taught_by, LOGITS))
    agreement = np.corrcoef(
        logits_of(student.network(), test.with_modalities(("acc",)), modality="acc")[:, 0],
        logits_of(teacher.network(), test, modality=None)[:, 0],
    )[0, 1]
    assert agreement > 0.7


@KINDS
@pytest.mark.parametrize("rival", RIVALS)
def test_rivals_are_scored_by_the_metrics_of_the_kind(rigs, kind, rival, quick_rocket):
    if rival != "extra_trees":
        pytest.importorskip("aeon")
    train, *parts = (rigs[kind].split(name) for name in ("train", "valid", "test"))
    truth = train.labels.reshape(len(train), -1).astype(np.float64)
    with quick_rocket():
        judged = Rivals(train=train, parts=parts, modality="acc", seed=0, teach=lambda windows: truth).judge(rival)
    assert judged[1].scores.metric("mean_average_precision" if kind == "multi_label" else "r2") > 0.5


@pytest.fixture(scope="module")
def student(rigs):
    """A baseline of the speed, after six steps."""
    return train_transformer(TrainingRequest(data_of(rigs["regression"]), "acc", STUDENT, run_of("regression")))


# ---- what is refused


def test_a_metric_of_another_kind_is_refused(rigs):
    run = replace(run_of("regression"), train=TrainConfig(steps=2, batch=8, eval_every=2))
    assert said(UsageError, train_transformer, TrainingRequest(data_of(rigs["regression"]), "acc", STUDENT, run)) == (
        "training: metric 'balanced_accuracy': expected one of r2, pearson for a task of the kind regression; choose "
        "one of them"
    )


def test_labels_that_are_never_on_and_targets_that_never_change_are_refused(rigs):
    data = data_of(rigs["multi_label"])
    labels = data.train.labels.copy()
    labels[:, 1] = 0
    data = replace(data, train=data.train.with_labels(labels))
    assert said(UsageError, train_transformer, TrainingRequest(data, "acc", STUDENT, run_of("multi_label"))) == (
        "training windows: expected every label to be on in a labelled window, got none for high; label some, raise "
        "--label-fraction or --labelled-groups, or take the label out of the dataset"
    )
    data = data_of(rigs["regression"])
    data = replace(data, train=data.train.with_labels(np.full(len(data.train), 3.0)))
    assert said(UsageError, train_transformer, TrainingRequest(data, "acc", STUDENT, run_of("regression"))) == (
        "training windows: expected two different values of 'speed' or more in labelled windows, got 1; label some, or "
        "raise --label-fraction"
    )


def test_a_checkpoint_whose_carried_windows_lack_labels_is_refused(student, tmp_path):
    labels = student.carried.labels.copy()
    labels[3] = np.nan
    write_student(tmp_path / "s.ckpt", replace(student, carried=replace(student.carried, labels=labels)))
    assert said(CheckpointError, read_student, tmp_path / "s.ckpt") == (
        f"{tmp_path / 's.ckpt'}: carried windows: expected a label of each, got windows without; the file was altered"
    )


# ---- commands


@pytest.mark.slow
def test_the_commands_choose_the_metric_of_the_kind_and_show_it(rigs, tmp_path, capsys):
    data, teacher, student = str(rigs["regression"].path), str(tmp_path / "t.ckpt"), str(tmp_path / "s.ckpt")
    brief = ["--steps", "2", "--batch", "8"]
    with pytest.raises(SystemExit, match="0"):
        run_train(["teacher", data, "-o", teacher, "--preset", "tiny", *brief])
    assert "\nvalidation    r2 " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        run_distill([teacher, data, "--modality", "acc", "-o", student, "--metric", "pearson", *brief])
    assert "\nvalidation    pearson " in capsys.readouterr().out
    line = ["student", data, "--modality", "acc", "-o", str(tmp_path / "b.ckpt"), "--metric", "macro_f1", *brief]
    assert said(UsageError, run_train, line) == (
        "--metric: expected one of r2, pearson, got 'macro_f1'; choose one of them"
    )


def test_evaluate_scores_by_the_kind(rigs, student, tmp_path, capsys):
    dataset = rigs["regression"]
    other = replace(student, state={**student.state, "answer.mean": student.state["answer.mean"] + 50})  # 50 rpm more
    for name, checkpoint in (("s.ckpt", student), ("other.ckpt", other)):
        write_student(tmp_path / name, checkpoint)
    arguments = [str(tmp_path / "s.ckpt"), str(dataset.path), "--against", str(tmp_path / "other.ckpt")]
    with pytest.raises(SystemExit, match="0"):
        run_evaluate([*arguments, "--suite", "scores", "--suite", "missing", "--json"])
    test = dataset.split("test").with_modalities(("acc",))
    document = msgspec.json.decode(capsys.readouterr().out)
    models = document["suites"]["scores"]["facts"]["models"]
    wanted, worse = (scores_of(one.network(), test, modality="acc") for one in (student, other))
    assert models["s.ckpt"]["scores"] == {
        name: pytest.approx(wanted.metric(name)) for name in ("mae", "rmse", "r2", "pearson")
    }
    gain = models["other.ckpt"]["gain"]
    assert gain["mean"] == pytest.approx(worse.metric("mae") - wanted.metric("mae"), rel=1e-4)
    assert gain["low"] is None  # of three groups
    assert len(document["suites"]["missing"]["facts"]["rows"]) == 7
    with pytest.raises(SystemExit, match="0"):
        run_evaluate(arguments)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "s.ckpt, other.ckpt on 24 test windows of rig (3 groups)"
    heads = "model Mean absolute error, rpm Root mean squared error, rpm R² Correlation Gain over it in mean absolute"
    assert " ".join(shown[4].split()).startswith(heads)
    # and no caution: its hashes know none of these groups
    assert shown[-2] == "too few groups for an interval: 3, at least 5 are needed; new ones may differ"
