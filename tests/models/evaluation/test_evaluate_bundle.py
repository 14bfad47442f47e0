"""`mmkd-evaluate BUNDLE DATA`: every artifact on the test split, its coverage, and what it refuses."""

import json
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import Bundle, EdgePredictor
from mmkd_edge.predict.novelty import least_probability
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_models.carried import carried_windows
from mmkd_models.data import write_dataset
from mmkd_models.data.spec import SPLIT_NAMES
from mmkd_models.evaluation.suites.models import models_from_bundle
from mmkd_models.training_hashes import training_hashes
from tests.models.judging_rig import write_random_student

pytestmark = pytest.mark.usefixtures("quick_exports", "quick_openings")


@pytest.fixture(scope="module")
def bundle(machines, student_checkpoint, tmp_path_factory):
    """A student of `acc` with random weights, exported with the validation windows of two machines."""
    path, fold = tmp_path_factory.mktemp("bundle") / "acc.ckpt", student_checkpoint.facts.fold
    carried = carried_windows(machines.split("valid"), "acc", seed=0)
    write_random_student(path, student_checkpoint, machines, fold=fold, carried=carried)
    return export(export_plan(path)).path


def test_coverage_on_the_test_split_is_that_of_the_runtime(run, bundle, machines):
    code, out, err = run(bundle, machines.path, "--json")
    assert (code, err) == (0, "scores\n")
    document = json.loads(out)
    assert document["data"]["part"] == "test windows"
    ((name, artifact),) = document["suites"]["scores"]["facts"]["models"].items()
    assert name == bundle.name
    test = machines.split("test")
    windows = test.take(np.arange(len(test)))["acc"]
    (coverage,) = artifact["confidence"]["coverages"]
    assert coverage["error_level"] == 0.2  # six windows support no smaller one that is shown
    with Bundle.open(bundle) as opened:
        confidence = opened.manifest.models[0].artifacts[0].confidence
    assert confidence is not None
    assert coverage["least_probability"] == least_probability(confidence, 0.2)
    with EdgePredictor.open(bundle, backend="ort", error_level=0.2) as predictor:
        predictions = predictor.predict_batch(windows)
        labels = [predictor.task.labels[label] for label in test.labels]
    right = np.array([label in one.label_set for one, label in zip(predictions, labels, strict=True)])
    assert coverage["covered"] == right.sum()
    assert coverage["mean_set_size"] == np.mean([len(one.label_set) for one in predictions])
    assert coverage["single_fraction"] == np.mean([not one.abstained for one in predictions])
    assert artifact["scores"]["accuracy"] == np.mean(
        [one.label == label for one, label in zip(predictions, labels, strict=True)]
    )


def test_the_table_shows_label_sets_and_calibration(run, bundle, machines):
    code, out, _ = run(bundle, machines.path)
    assert code == 0
    name, lines = bundle.name, out.splitlines()
    assert lines[0] == f"{name} on 12 test windows of machines (2 groups)"
    assert lines[2] == "Scores:"
    assert lines[5] == f"Label sets of {name}:"
    assert lines[6].startswith("error level")
    assert lines[7].split()[0] == "0.2"
    assert lines[8].startswith(f"{name}: probabilities are not corrected (softmax temperature 1); on 12 windows the ")
    assert lines[9:] == [
        "too few groups for an interval: 2, at least 5 are needed; new ones may differ",
        f"caution: {bundle} does not record which windows trained it: some of these may have",
        f"next: mmkd-bench run {bundle}",
    ]


def test_a_bundle_of_another_task_or_training_is_refused_or_has_no_price(run, bundle, dataset, both, machines, cost):
    code, _, err = run(bundle, dataset.path)
    assert code == 2
    assert f"{bundle}: student: expected the classes {', '.join(dataset.spec.task.labels)} of the dataset, got" in err
    for path in both(has_hashes=False):
        assert run(path, machines.path, "--suite", "cost", "--cost", cost) == refused(
            f"--suite cost: {path} does not record which windows of this dataset trained it; export or train "
            "it again, or leave the suite out"
        )


def test_one_precision_in_two_formats_is_two_models_of_two_names(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs pip install 'mmkd-edge[litert]'")
    path = Path(__file__).parents[2] / "files" / "litert" / "transformer.edge"
    with Bundle.open(path) as opened:
        entry, values = opened.manifest.models[0], opened.golden("acc").windows
    splits = {name: {"acc": values[n::3], "labels": np.arange(len(values[n::3]))} for n, name in enumerate(SPLIT_NAMES)}
    data = write_dataset(tmp_path / "d", name="d", labels=entry.task, modalities=[entry.modality], splits=splits)
    with ExitStack() as stack:
        read = models_from_bundle(stack, str(path), data.split("test"), data.sha256, check=lambda *_: None)
        names = [model.name for model in read]
    assert names == [path.name, f"{path.name} int8", f"{path.name} int8 tflite"]


# ---- windows that trained it


def refused(message):
    return 2, "", f"mmkd-evaluate: {message}\n"


@pytest.fixture
def both(machines, student_checkpoint, tmp_path):
    """A checkpoint that was trained on the training windows of a dataset, and its bundle."""

    def make(dataset=machines, *, fold=msgspec.UNSET, has_hashes=True):
        hashes = training_hashes(dataset.split("train"), "acc", key=dataset.sha256) if has_hashes else None
        carried, path = carried_windows(dataset.split("valid"), "acc", seed=0), tmp_path / "acc.ckpt"
        write_random_student(path, student_checkpoint, dataset, carried=carried, fold=fold, training_hashes=hashes)
        return path, export(export_plan(path)).path

    return make


@pytest.fixture
def cost(tmp_path):
    file = tmp_path / "cost.toml"
    file.write_text(
        'version = 1\nhealthy = ["idle"]\n[plant]\nmissed_cost = 5\n[student]\nsensor_price = 1\nnode_price = 1\n'
    )
    return file


@pytest.mark.parametrize(
    ("fold", "known", "right"), [(None, "the dataset's own split", "--split test"), (0, "fold 0", "--fold 0")]
)
def test_both_files_are_refused_on_windows_that_trained_them(run, both, machines, cost, fold, known, right):
    for path in both(fold=fold):
        for line in ((), ("--suite", "cost", "--cost", cost)):
            code, out, err = run(path, machines.path, "--fold", "3", *line)
            trained = 6 if fold is None else 12
            assert (code, out, err) == refused(
                f"{path}: expected windows that did not train it, got test windows of fold 3: "
                f"{trained} of 12 did, since it was trained on {known}; use {right}"
            )
            assert run(path, machines.path, *right.split(), *line)[0] == 0


def rewritten(dataset, path, *, name, groups, shift=0.0):
    """The same windows in another dataset, with training and test exchanged, perhaps without groups or changed."""
    splits = {}
    for split, origin in (("train", "test"), ("valid", "valid"), ("test", "train")):
        windows = dataset.split(origin)  # type: ignore[arg-type]
        values = windows.take(np.arange(len(windows)))
        found = {one: values[one] + shift for one in values} | {"labels": windows.labels}
        splits[split] = found | ({"groups": windows.groups} if groups else {})
    return write_dataset(path, name=name, labels=dataset.spec.task, modalities=dataset.spec.modalities, splits=splits)


@pytest.mark.parametrize(
    ("name", "groups", "shift"),
    [("machines", True, 0.001), ("copy", False, 0.0)],
    ids=["the groups in other windows", "the windows in another dataset without groups"],
)
def test_what_trained_is_known_again_elsewhere(run, both, machines, cost, tmp_path, name, groups, shift):
    other = rewritten(machines, tmp_path / "other", name=name, groups=groups, shift=shift)
    for path in both(fold=None):
        assert run(path, other.path, "--suite", "cost", "--cost", cost) == refused(
            f"{path}: expected windows that did not train it, got test windows: at least 36 of "
            "36 did, or are of a group that did. Judge by other recordings, or rename the dataset if its groups are "
            "others"
        )
        code, out, err = run(path, other.path, "--split", "train")
        assert code == 0, err
        assert (
            f"caution: {path} was trained on another dataset (SHA-256 {machines.sha256[:12]}...): this one is a " in out
        )


def test_the_bundle_keeps_hashes_that_have_no_name_in_them(both, machines):
    _, path = both(fold=0)
    with Bundle.open(path) as bundle:
        (entry,) = bundle.manifest.models
    assert entry.fold == 0
    assert entry.training_hashes == training_hashes(machines.split("train"), "acc", key=machines.sha256)
    assert len(entry.training_hashes) == 8 * (36 + 6)  # windows and machines
    with Bundle.open(export(export_plan(path, output=path.with_name("again.edge"))).path) as bundle:
        assert bundle.manifest.models[0].training_hashes == entry.training_hashes
