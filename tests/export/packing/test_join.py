"""Several students in one bundle: what they must share, and that a device asks them in order."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_app.commands.export import run_export
from mmkd_app.commands.inspect import main as inspect
from mmkd_documents.export import decode_report
from mmkd_edge import Bundle, EdgePredictor, ModalitySpec, TaskSpec, UsageError
from mmkd_edge.bundle.manifest import release_number
from mmkd_edge.health.running import measure_statistics
from mmkd_edge.install.keys import check_signed, make_keys
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_export.inspect.files import inspect_file
from mmkd_export.packing.contents import join_bundles
from mmkd_export.pipeline import export, export_several
from mmkd_export.plan import Seal, export_plan
from mmkd_models.training.checkpoint import write_student
from tests.edge.said import said
from tests.export.students import make_student

GYRO = ModalitySpec(name="gyro", channels=("u", "v"), rate_hz=25.0, samples=32)


@pytest.fixture(scope="module")
def gyro_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gyro") / "gyro.ckpt"
    write_student(path, make_student(modality=GYRO))
    return path


@pytest.fixture(scope="module")
def both(student_file, gyro_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("both") / "both.edge"
    with redirect_stdout(io.StringIO()) as stdout, pytest.raises(SystemExit) as ended:
        run_export([str(student_file), str(gyro_file), "-o", str(output)])
    said = f"wrote {output} (acc, gyro, asked in this order); next: mmkd-inspect {output}"
    assert (ended.value.code, stdout.getvalue().splitlines()[-1]) == (0, said)
    return output


def test_students_are_measured_answer_in_order_and_are_told_of(exported, student, both):
    (entry,) = exported.manifest.models
    with Bundle.open(exported.path) as bundle:
        golden = bundle.golden("acc")
    prepared = prepare_batch(golden.windows, student.modality)
    assert entry.statistics == measure_statistics(*prepared, golden.probabilities, task=student.task)
    assert entry.statistics.windows == 12
    with EdgePredictor.open(both) as predictor:
        assert [entry.name for entry in predictor.entries] == ["acc", "gyro"]
        assert predictor.selftest().windows == 24
        acc, gyro = np.ones(predictor.entries[0].modality.shape), np.ones((32, 2))
        assert predictor.predict({"acc": acc, "gyro": gyro}).modality == "acc"
        stood_in = predictor.predict({"gyro": gyro})
        assert (stood_in.modality, stood_in.status) == ("gyro", "degraded")
    with Bundle.open(both) as bundle:
        report = decode_report(bundle.read("report.json"))
        card = bundle.read("README.md").decode()
    assert [report.student.modality, *(other.student.modality for other in report.others)] == ["acc", "gyro"]
    assert card.startswith(
        "# 2 students, asked in this order\n\nThe first whose sensor works answers:\n\n1. `acc`\n2. `gyro`\n"
    )
    assert card.count("\n# toy_set-") == 2
    assert {"acc.window", "gyro.window", "checkpoint", "gyro.checkpoint"} <= set(inspect_file(both))


def test_students_that_cannot_stand_in_for_each_other_are_refused(student_file, tmp_path):
    other, output = tmp_path / "other.ckpt", tmp_path / "both.edge"
    write_student(other, make_student(modality=GYRO, task=TaskSpec(labels=("sit", "stand"))))
    plan = export_plan(student_file, output=output)
    assert said(UsageError, export_several, [plan, plan], output=output) == (
        "modality 'acc': expected one student for each modality, got several; "
        "a student stands in for another when the other's sensor is dead"
    )
    assert said(UsageError, export_several, [plan, replace(plan, source=other)], output=output) == (
        "modality 'gyro': expected the first student's labels rest, walk, run, fall, got sit, stand; "
        "students of one bundle answer the same question"
    )
    assert list(tmp_path.iterdir()) == [other]


def test_several_students_need_a_place_to_go_and_no_engines(student_file):
    several = [str(student_file)] * 2
    assert said(UsageError, run_export, several) == (
        "several students need -o FILE, and take no --page and no --mlflow; see --help"
    )
    assert said(UsageError, run_export, [*several, "-o", "both.edge", "--target", "trt"]) == (
        "--target trt: expected one student, got several; export each on its own"
    )


def test_bundles_are_joined_as_checkpoints_are(exported, gyro_file, tmp_path):
    output = tmp_path / "both.edge"
    plan = export_plan(exported.path, output=output)
    export_several([plan, replace(plan, source=gyro_file)], output=output)
    with Bundle.open(output) as bundle, Bundle.open(exported.path) as first:
        assert [entry.name for entry in bundle.manifest.models] == ["acc", "gyro"]
        assert bundle.manifest.models[0] == first.manifest.models[0]


FILES = ("acc/model.fp32.onnx", "acc/golden.npz", "report.json", "README.md")


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    pytest.importorskip("cryptography")
    path = tmp_path_factory.mktemp("key") / "fleet.key"
    make_keys(path)
    (path.parent / "keys").mkdir()
    Path(f"{path}.pub").rename(path.parent / "keys" / "fleet.pub")
    return path


@pytest.fixture(scope="module")
def sealed(student_file, key, tmp_path_factory):
    output = tmp_path_factory.mktemp("sealed") / "student.edge"
    return export(replace(export_plan(student_file, output=output), seal=Seal(release=7, keys=(key,)))).path


def test_an_export_is_numbered_signed_or_has_the_bytes_of_before(sealed, key, exported):
    with Bundle.open(sealed) as bundle:
        assert release_number(bundle.manifest) == 7
        assert len(check_signed(bundle, key.parent / "keys")) == 16
    with Bundle.open(exported.path) as bundle:
        assert (release_number(bundle.manifest), bundle.signatures) == (0, None)
    assert b'"release"' not in exported.path.read_bytes()


def test_a_bundle_that_is_exported_again_keeps_its_number_and_is_signed_anew(sealed, key, tmp_path):
    again = export(replace(export_plan(sealed, output=tmp_path / "again.edge"), seal=Seal(keys=(key,)))).path
    with Bundle.open(again) as bundle:
        assert release_number(bundle.manifest) == 7
        assert check_signed(bundle, key.parent / "keys")
    unsigned = export(export_plan(again, output=tmp_path / "unsigned.edge")).path
    export(replace(export_plan(again), seal=Seal(release=8)))
    with Bundle.open(unsigned) as bundle, Bundle.open(sealed) as before, Bundle.open(again) as later:
        assert (release_number(bundle.manifest), bundle.signatures) == (7, None)
        assert bundle.manifest == before.manifest
        assert [bundle.read(file) for file in FILES] == [before.read(file) for file in FILES]
        assert (release_number(later.manifest), later.signatures) == (8, None)


def test_several_students_are_sealed_together(sealed, gyro_file, key, tmp_path):
    gyro = export(export_plan(gyro_file, output=tmp_path / "gyro.edge")).path
    join_bundles([sealed, gyro], tmp_path / "both.edge", seal=Seal(release=9, keys=(key,)))
    with Bundle.open(tmp_path / "both.edge") as bundle:
        assert (release_number(bundle.manifest), len(bundle.manifest.models)) == (9, 2)
        assert check_signed(bundle, key.parent / "keys")


def test_a_key_that_cannot_sign_is_told_before_the_work(student_file, tmp_path):
    plan = replace(export_plan(student_file, output=tmp_path / "a.edge"), seal=Seal(keys=(tmp_path / "none.key",)))
    assert said(UsageError, export, plan) == (
        f"{tmp_path}/none.key: expected a private key of mmkd-edge keygen: no such file or directory; check the path"
    )
    assert list(tmp_path.iterdir()) == []


def test_inspect_says_who_signed_and_refuses_what_nobody_did(sealed, exported, key, ran):
    keys = key.parent / "keys"
    key_id = json.loads((keys / "fleet.pub").read_text())["key_id"]
    code, out, _ = ran(inspect, "mmkd-inspect", sealed, "--verify", keys, "--json")
    facts = json.loads(out)
    assert (code, facts["release"], facts["signed_by"]) == (0, "7", f"key {key_id}")
    assert facts["signature"] == f"by key {key_id}, which is in {keys}"
    told = f"{exported.path}: it is not signed, and {keys} names the keys that must have; export it with --sign"
    assert ran(inspect, "mmkd-inspect", exported.path, "--verify", keys, "--json") == (6, "", f"mmkd-inspect: {told}\n")
