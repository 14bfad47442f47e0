"""Options and refusals of `mmkd-train` and `mmkd-distill`, without the seconds that a process takes to start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.train import run_train
from mmkd_app.training.checkpoints import write_student_and_report
from mmkd_app.training.tracking import tracked
from mmkd_edge.bundle.manifest import HopRule, OverTime
from mmkd_edge.errors import UsageError
from mmkd_models.data.augment import AugmentConfig
from mmkd_models.data.folds import Labelled
from mmkd_models.distillation.recipe import Recipe, chosen_recipe, taught_by
from mmkd_models.networks.config import teacher_config
from mmkd_models.networks.student import count_values
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import TriedStudent, file_sha256, read_student, read_teacher, write_teacher
from mmkd_models.training.inputs import TrainingRun
from mmkd_models.training.trainings import train_teacher
from tests.edge.said import said
from tests.models.conftest import data_of

pytestmark = pytest.mark.usefixtures("few_trees")

COMMANDS = {"mmkd-train": run_train, "mmkd-distill": run_distill}


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Runs a command in this process, in an empty folder: the same code without the seconds that imports take."""
    monkeypatch.chdir(tmp_path)

    def _call(command, *arguments):
        capsys.readouterr()
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            COMMANDS[command]([str(argument) for argument in arguments])
        stdout, stderr = capsys.readouterr()
        assert ended.value.code in (0, None), stderr
        return SimpleNamespace(stdout=stdout, stderr=stderr, last_line=stdout.splitlines()[-1])

    return _call


def message_of(command, *arguments):
    return said(UsageError, COMMANDS[command], [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(machines, tmp_path_factory):
    """A folder with a teacher of both sensors in it."""
    folder = tmp_path_factory.mktemp("teacher")
    data = data_of(machines)
    run = TrainingRun(train=TrainConfig(steps=2, batch=8), augment=AugmentConfig())
    write_teacher(folder / "teacher.ckpt", train_teacher(data, teacher_config("tiny"), run))
    return folder


def baseline_of(call, dataset, *options):
    small = ("--modality", "gyro", "--preset", "tiny", "--steps", 2, "--no-choose")
    return call("mmkd-train", "student", dataset.path, *small, *options)


@pytest.mark.parametrize("what", ["teacher", "student"])
def test_without_labels_to_choose_by_nothing_is_trained(machines, tmp_path, what):
    path = tmp_path / "site"
    shutil.copytree(machines.path, path)
    np.save(path / "valid" / "labels.npy", np.full(12, -1, dtype=np.int64))
    modality = [] if what == "teacher" else ["--modality", "gyro"]
    assert message_of("mmkd-train", what, path, *modality) == (
        f"{path}: expected labelled windows of valid to choose by, got none; label some,"
        " or import with labels.task = 'normal' if all is normal running"
    )


def test_a_share_of_labels_a_fold_and_a_seed_make_another_student(call, machines, tmp_path):
    baseline_of(call, machines, "-o", "plain.ckpt")
    plain = read_student(tmp_path / "plain.ckpt").state
    for option in (("--label-fraction", 0.5), ("--labelled-groups", 2), ("--fold", 1), ("--seed", 1)):
        baseline_of(call, machines, *option, "-o", "other.ckpt", "--force")
        other = read_student(tmp_path / "other.ckpt").state
        assert not all(torch.equal(plain[name], other[name]) for name in plain), option


@pytest.mark.parametrize(
    ("options", "labelled"),
    [("--labelled-groups 2", Labelled(groups=2)), ("--label-fraction 0.5 --fold 1 --seed 2", Labelled(fraction=0.5))],
)
def test_a_checkpoint_knows_what_was_labelled_and_the_next_command_sees_the_same_windows(
    call, machines, options, labelled
):
    small = ("--preset", "tiny", "--members", "transformer", "--steps", 2)
    ended = call("mmkd-train", "teacher", machines.path, *small, *options.split())
    assert ended.last_line == (
        f"wrote teacher.ckpt; next: mmkd-distill teacher.ckpt {machines.path} --modality SENSOR -o student.ckpt"
        f" {options}; mmkd-data report {machines.path} shows which SENSOR to choose"
    )
    teacher = read_teacher(Path("teacher.ckpt"))
    assert (teacher.facts.labelled, teacher.committee) == (labelled, None)
    assert [line.split(": step")[0] for line in ended.stderr.splitlines()] == ["teacher"]


def test_a_baseline_is_trained_by_its_options_and_the_export_named(call, machines, tmp_path):
    options = ["--batch", 8, "--learning-rate", 0.01, "--patience", 3, "--metric", "macro_f1", "--seed", 5]
    ended = baseline_of(
        call, machines, *options, "--precision", "bf16-mixed", "--preset", "small", "--no-embed-windows"
    )
    assert ended.last_line == "wrote baseline.ckpt; next: mmkd-export baseline.ckpt -o baseline.edge"
    assert re.fullmatch(r"gyro baseline: step 2/2 loss \d\.\d{3} best valid \d\.\d{3}\n", ended.stderr)
    checkpoint = read_student(tmp_path / "baseline.ckpt")
    training = checkpoint.facts.training
    assert (training.steps, training.batch, training.learning_rate, training.patience) == (2, 8, 0.01, 3)
    assert (training.metric, training.seed, training.precision) == ("macro_f1", 5, "bf16-mixed")
    assert (checkpoint.facts.metric, checkpoint.config.preset, checkpoint.carried) == ("macro_f1", "small", None)
    assert checkpoint.modality.name == "gyro"


def distilled(call, folder, dataset, *options):
    line = (folder / "teacher.ckpt", dataset.path, "--modality", "acc", "--steps", 2, "--no-choose")
    return call("mmkd-distill", *line, *options)


def test_the_printed_recipe_is_the_default_and_can_be_given_back(call, machines, folder, tmp_path):
    printed = call("mmkd-distill", "--print-recipe").stdout
    assert msgspec.json.decode(printed, type=Recipe) == taught_by("dist")
    (tmp_path / "recipe.json").write_text(printed)
    distilled(call, folder, machines, "-o", "default.ckpt")
    distilled(call, folder, machines, "-o", "given.ckpt", "--recipe", "recipe.json")
    assert (tmp_path / "default.ckpt").read_bytes() == (tmp_path / "given.ckpt").read_bytes()


def test_terms_on_the_command_line_are_what_the_student_learns_from(call, machines, folder, tmp_path):
    terms = ["task", "logit,temperature=4", "dkd", "dist", "edam,layers=uniform", "relation", "feature", "crd,queue=8"]
    options = [part for text in terms for part in ("--term", text)]
    ended = distilled(call, folder, machines, *options)
    recipe = read_student(tmp_path / "student.ckpt").facts.recipe
    assert recipe == chosen_recipe(taught_by("dist"), file=None, terms=terms)
    for name in ("task", "logit", "dkd", "dist", "edam", "relation", "feature", "crd", "loss"):
        assert re.search(rf"\b{name} -?\d+\.\d{{3}}", ended.stderr), name
    state = read_student(tmp_path / "student.ckpt").state
    assert {name.split(".")[0] for name in state} == {"encoder", "pool", "head"}  # no projector


def test_a_recipe_that_is_none_says_where(machines, folder, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"terms": [{"type": "logit", "weight": {"start": 1}}]}')
    line = (folder / "teacher.ckpt", machines.path, "--modality", "acc", "--recipe", path)
    assert message_of("mmkd-distill", *line) == (
        f"{path}: expected a recipe, Object missing required field `end` - at `$.terms[0].weight`; --print-recipe "
        "prints one to start from"
    )


EARLY = """
import sys
from importlib import import_module
name, *sys.argv = sys.argv[1:]
module = import_module(name)
sys.modules["torch"] = None  # whatever imports it fails
from importlib import util
real = util.find_spec
import mmkd_edge.machine as machine
machine.find_spec = lambda module: real("json") if module == "torch" else real(module)  # it is installed
module.main()
"""


@pytest.mark.parametrize(
    ("line", "message"),
    {
        "train teacher nowhere": "nowhere: expected a dataset directory",
        "train student DATA --modality sound": "modality 'sound' is not in it",
        "train student DATA --modality acc --preset huge": "--preset: expected one of",
        "train teacher DATA --metric f1": "--metric: expected one of",
        "distill DATA/dataset.json DATA --modality sound": "modality 'sound' is not in it",
        "distill none.ckpt DATA --modality acc": "none.ckpt: ",
        "distill DATA/dataset.json DATA --modality acc --members tree": "--members: expected one of",
        "distill DATA/dataset.json DATA --modality acc --fold 9": "fold",
        "evaluate --sensors DATA --vary acc@10Hz": "--vary acc@10Hz: expected SENSOR:FACTOR=VALUE",
        "evaluate --sensors DATA --vary acc:rate=10 --healthy none": "--healthy none: expected one of the classes",
    }.items(),
)
def test_what_is_wrong_is_refused_before_torch_is_imported(machines, tmp_path, line, message):
    command, *words = line.replace("DATA", str(machines.path)).split()
    program = [sys.executable, "-c", EARLY, f"mmkd_app.commands.{command}", f"mmkd-{command}", *words]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, message in ended.stderr) == (2, True), ended.stderr
    assert "torch" not in ended.stderr


_UNKNOWN = "dataset 'machines': modality 'sound' is not in it; choose one of acc, gyro"
_FRACTION = "label fraction: expected above 0 and up to 1, got {}; 0.1 keeps a tenth of the labels"
WRONG = {
    "student --modality acc --preset huge": "--preset: expected one of tiny, small, medium, base, got 'huge'",
    "student --modality acc --members trees,tree": "--members: expected one of transformer, convolutions, intervals,"
    " trees, got 'tree'",
    "student --modality acc --precision 8": "--precision: expected one of 32-true, bf16-mixed, got '8'",
    "student --modality acc --metric f1": "--metric: expected one of accuracy, balanced_accuracy, macro_f1, got 'f1'",
    "student --modality sound": _UNKNOWN,
    "teacher --modality sound": _UNKNOWN,
    "teacher --modality acc --modality acc": "modalities: expected each name once, got acc, acc; name each once",
    "student --modality acc --label-fraction 0": _FRACTION.format("0.0"),
    "student --modality acc --label-fraction 1.5": _FRACTION.format("1.5"),
    "student --modality acc --label-fraction nan": _FRACTION.format("nan"),
    "teacher -o .": "--out .: expected the name of a checkpoint, got a directory; name a file in it",
}


@pytest.mark.parametrize(("line", "message"), WRONG.items())
def test_a_wrong_option_names_what_is_right_before_training(machines, capsys, line, message):
    command, *options = line.split()
    ending = "; choose one of them" if "expected one of" in message else ""
    assert message_of("mmkd-train", command, machines.path, *options) == message + ending
    assert "step" not in capsys.readouterr().err


def test_a_student_of_convolutional_features_is_fitted_without_steps(call, machines, tmp_path):
    ended = call(
        "mmkd-train", "student", machines.path, "--modality", "acc", "--members", "convolutions", "--no-choose"
    )
    student = read_student(tmp_path / "baseline.ckpt")
    assert student.config.members == ("convolutions",)
    assert ended.stdout.splitlines() == [
        "modalities    acc",
        f"parameters    {count_values(student.network()):,}",
        f"validation    balanced_accuracy {student.facts.score:.3f}",
        "wrote baseline.ckpt; next: mmkd-export baseline.ckpt -o baseline.edge",
    ]


@pytest.mark.parametrize("members", ["convolutions", "trees,intervals", "transformer,trees"])
def test_teachers_teach_all_members(call, machines, folder, tmp_path, members):
    ended = distilled(call, folder, machines, "--members", members)
    student = read_student(tmp_path / "student.ckpt")
    assert student.facts.teacher_sha256 == file_sha256(folder / "teacher.ckpt")
    assert bool(student.facts.weights) == ("weights       " in ended.stdout) == ("," in members)


def test_a_teacher_of_another_sensor_teaches_its_outputs_and_not_its_attention(call, machines, tmp_path):
    small = ("--preset", "tiny", "--steps", 2, "--members", "transformer")
    call("mmkd-train", "teacher", machines.path, "--modality", "gyro", *small)
    assert [spec.name for spec in read_teacher(tmp_path / "teacher.ckpt").modalities] == ["gyro"]
    arguments = [tmp_path / "teacher.ckpt", machines.path, "--modality", "acc", *small, "--no-choose"]
    call("mmkd-distill", *arguments)
    assert read_student(tmp_path / "student.ckpt").modality.name == "acc"
    assert message_of("mmkd-distill", *arguments, "--term", "task", "--term", "edam", "--force") == (
        "recipe: term 'edam': layers=1 does not fit: it can compare 2 layers of the student and 0 of the teacher; "
        "choose other layers, or leave the term out"
    )


def test_the_members_that_are_named_make_the_teacher(call, machines, tmp_path):
    call("mmkd-train", "teacher", machines.path, "--preset", "tiny", "--steps", 2, "--members", "trees,transformer")
    made = read_teacher(tmp_path / "teacher.ckpt").committee
    assert made is not None
    assert [member.kind for member in made.members if not member.modality] == ["transformer", "trees"]


def test_a_student_is_chosen_with_quick_members_first_and_what_is_left_is_said(call, machines, folder, tmp_path):
    options = ("--modality", "gyro", "--steps", 2, "--members", "trees,transformer,intervals")
    ended = call("mmkd-distill", folder / "teacher.ckpt", machines.path, *options)
    number = r"-?\d+\.\d{3}"
    members = [f"{member}, {whose}" for whose in ("labels only", "taught") for member in ("intervals", "trees")]
    (*quick, last) = ended.stderr.splitlines()
    for line, name in zip(quick, members, strict=True):
        assert re.fullmatch(rf"gyro student: {name}: balanced_accuracy {number}, \d+ s", line)
    assert re.fullmatch(rf"gyro student, taught: step 2/2 (\w+ {number} )+best valid {number}", last)
    student = read_student(tmp_path / "student.ckpt")
    assert [trial.name for trial in student.facts.tried or ()][:3] == ["transformer", "intervals", "trees"]
    assert re.search(r"^shipped       .+ \(of transformer .+ labels only \d", ended.stdout, flags=re.MULTILINE)


def test_members_without_steps_are_chosen_among_at_once(call, machines, folder, tmp_path):
    options = ("--modality", "gyro", "--members", "trees,intervals")
    ended = call("mmkd-distill", folder / "teacher.ckpt", machines.path, *options)
    assert ": step" not in ended.stderr
    tried = [trial.name for trial in read_student(tmp_path / "student.ckpt").facts.tried or ()]
    assert (tried[:2], tried[-1]) == (["intervals", "trees"], "labels only")
    call("mmkd-train", "student", machines.path, *options)
    tried = [trial.name for trial in read_student(tmp_path / "baseline.ckpt").facts.tried or ()]
    assert (tried[:2], "labels only" in tried) == (["intervals", "trees"], False)


def test_a_class_without_labels_leaves_the_choice_to_what_the_teacher_taught(call, machines, folder, tmp_path):
    path = tmp_path / "site"
    shutil.copytree(machines.path, path)
    labels = np.load(path / "train" / "labels.npy")
    np.save(path / "train" / "labels.npy", np.where(labels == 2, -1, labels))
    call("mmkd-distill", folder / "teacher.ckpt", path, "--modality", "gyro", "--members", "trees,intervals")
    tried = [trial.name for trial in read_student(tmp_path / "student.ckpt").facts.tried or ()]
    assert (tried[:2], "labels only" in tried) == (["intervals", "trees"], False)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_the_student_that_validation_chose_is_chosen_again_by_the_same_command(
    call, machines, folder, tmp_path, option
):
    command = ("mmkd-distill", folder / "teacher.ckpt", machines.path, "--modality", "gyro", "--preset", "tiny")
    call(*command, "--steps", 2)
    first = (tmp_path / "student.ckpt").read_bytes()
    facts = read_student(tmp_path / "student.ckpt").facts
    assert [one.name for one in facts.tried or ()][-1] == "labels only"
    call(*command, "--steps", 2, option)
    assert (tmp_path / "student.ckpt").read_bytes() == first


def test_a_student_of_a_teacher_that_validates_below_labels_only_is_reported_with_that(
    student_checkpoint, tmp_path, capsys
):
    tried = tuple(TriedStudent(name=name, valid_score=0.75, log_likelihood=-1.0) for name in ("trees", "labels only"))
    facts = msgspec.structs.replace(student_checkpoint.facts, shipped="trees", tried=tried, teacher_score=0.65)
    with tracked(None, tmp_path, title="") as tracker:
        write_student_and_report(tmp_path / "s.ckpt", replace(student_checkpoint, facts=facts), tracker, json=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "teacher       nothing to give: it validates 10.0 points below labels only (65.0 % and 75.0 %)",
        f"wrote {tmp_path}/s.ckpt; next: mmkd-export {tmp_path}/s.ckpt -o {tmp_path}/s.edge",
    ]


def test_a_student_that_weighs_in_earlier_answers_is_told_with_its_price(student_checkpoint, tmp_path, capsys):
    rule = HopRule(
        hop_fraction=0.5, dwell_s=9.0, exponent=0.5, gain_points=2.25, delay=(2.0, 4.0), single_delay=(1.0, 3.0)
    )
    over_time = OverTime(prior=(0.5, 0.5), rules=(rule,), changes=12)
    facts = msgspec.structs.replace(student_checkpoint.facts, over_time=over_time)
    with tracked(None, tmp_path, title="") as tracker:
        write_student_and_report(tmp_path / "s.ckpt", replace(student_checkpoint, facts=facts), tracker, json=False)
    assert (
        "over time     a hop of 0.5 windows gains 2.2 points on validation recordings and follows a change of state"
        " after 2 answers, 9 of 10 within 4 (single answers 1 and 3); 12 changes judged"
    ) in capsys.readouterr().out.splitlines()
    assert read_student(tmp_path / "s.ckpt").facts.over_time == over_time


REFUSED = {
    "--no-choose --max-latency-ms 1": "--max-latency-ms limits what a choice may take; leave out --no-choose",
    "--members convolutions,trees --term logit": "--term cannot be combined with --members convolutions,trees, which"
    " learn the teachers' probabilities and the labels; leave it out, or add the member transformer",
    "--members convolutions --causal": "--causal: expected the member transformer alone, got convolutions, whose"
    " features are counted over whole windows; leave out --causal, or give --members transformer",
}


@pytest.mark.parametrize(("options", "message"), REFUSED.items())
def test_members_that_do_not_go_with_other_options_are_refused(machines, folder, options, message):
    given = ("--modality", "acc", *options.split())
    assert message_of("mmkd-distill", folder / "teacher.ckpt", machines.path, *given) == message
