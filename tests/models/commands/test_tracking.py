"""`--mlflow`: what a run holds, with a store in a folder, with a server that is away, and with one that is killed."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.study import run_study
from mmkd_app.commands.train import run_train
from mmkd_app.training.checkpoints import write_student_and_report
from mmkd_app.training.tracking import RUN_FILE, tracked
from mmkd_edge import EdgePredictor
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_models.train_config import Validation
from mmkd_models.training.checkpoint import file_sha256, write_student
from tests.export.students import make_normal_student
from tests.models.judging_rig import write_random_teacher

pytestmark = pytest.mark.usefixtures("few_trees")

AWAY = "http://127.0.0.1:9"  # the port `discard`, where nothing listens
CURVE = [Validation(step=step, train_loss=1 / step, valid_score=step / 10, terms={"task": 2.0}) for step in (2, 4, 6)]


@pytest.fixture
def store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'mmkd-edge[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    return mlflow.MlflowClient()


def runs_of(client, experiment):
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


def points(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def files(client, run, folder=None):
    return {file.path for file in client.list_artifacts(run.info.run_id, folder) if not file.is_dir}


def ended(call, *arguments):
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as end:
        call([str(word) for word in arguments])
    assert end.value.code in (0, None)
    return stderr.getvalue()


@pytest.mark.slow
def test_what_no_server_took_is_sent_by_the_export_and_the_model_answers_as_its_bundle(
    store, machines, tmp_path, monkeypatch
):
    import mlflow

    from mmkd_app.commands.export import run_export

    checkpoint, bundle, page = (tmp_path / f"acc.{suffix}" for suffix in ("ckpt", "edge", "html"))
    own = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    training = ("student", machines.path, "--modality", "acc", "--no-choose", "--steps", 6)
    said = ended(run_train, *training, "-o", checkpoint, "--mlflow", "press").splitlines()
    assert [line[:24] for line in said if line.startswith("--mlflow: API")] == ["--mlflow: API request to"]
    assert f"calls wait in {tmp_path}/acc.ckpt.run/mlflow.json; the next command sends them" in said[-1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    ended(run_export, checkpoint, "-o", bundle, "--page", page, "--mlflow", "press")

    run = runs_of(store, "press")["acc.ckpt"]
    assert (run.info.status, run.data.params["training.steps"]) == ("FINISHED", "6")
    assert [step for step, _ in points(store, run, "valid/score")] == [6]
    assert (run.data.metrics["best_step"], run.data.metrics["fp32/size_bytes"] > 0) == (6, True)
    assert files(store, run) == {"acc.ckpt", "acc.html", "report.json", "README.md"}
    assert files(store, run, "model") == {"model/MLmodel", "model/acc.edge"}
    assert json.loads((tmp_path / "acc.ckpt.run" / RUN_FILE).read_text())["waiting"] == []

    windows = machines.split("test").take(np.arange(3))["acc"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        frame = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").predict(windows)
    with EdgePredictor.open(bundle) as predictor:
        expected = predictor.predict_batch(windows)
    assert list(frame["label"]) == [answer.label for answer in expected]
    assert list(frame["probability"]) == pytest.approx([answer.probability for answer in expected])


def test_a_resumed_training_goes_on_in_its_run_and_repeats_nothing(store, tmp_path):
    with pytest.raises(KeyboardInterrupt), tracked("press", tmp_path, title="a.ckpt") as first:  # noqa: PT012
        first.record_curve(CURVE[:2])
        first.record_curve(CURVE[:1], "second/")
        raise KeyboardInterrupt
    assert runs_of(store, "press")["a.ckpt"].info.status == "KILLED"
    with tracked("press", tmp_path, title="a.ckpt", resume=True) as again:
        again.record_curve(CURVE)
        again.record_curve(CURVE[:1], "second/")
    (run,) = runs_of(store, "press").values()
    assert points(store, run, "valid/score") == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert points(store, run, "train/task") == [(2, 2.0), (4, 2.0), (6, 2.0)]
    assert points(store, run, "second/train/loss") == [(2, 0.5)]
    with pytest.raises(UsageError), tracked("press", tmp_path / "new", title="b.ckpt"):
        raise UsageError("--steps: lower them")
    failed = runs_of(store, "press")["b.ckpt"]
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "--steps: lower them")


def test_a_finished_training_that_is_resumed_goes_on_in_its_run_and_sends_what_waits(
    store, student_checkpoint, tmp_path, monkeypatch
):
    own, path = os.environ["MLFLOW_TRACKING_URI"], tmp_path / "a.ckpt"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    write_student(path, student_checkpoint)
    with tracked("press", tmp_path, title="a.ckpt") as first:
        first.record_curve(CURVE[:1])
        first.record_checkpoint(path, student_checkpoint.facts, student_checkpoint.config)
    assert json.loads((tmp_path / RUN_FILE).read_text())["waiting"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    for _ in range(2):
        with tracked("press", tmp_path, title="a.ckpt", resume=True) as again:
            again.record_curve(CURVE)
    (run,) = store.search_runs([store.get_experiment_by_name("press").experiment_id])
    assert points(store, run, "valid/score") == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert files(store, run) == {"a.ckpt"}
    assert json.loads((tmp_path / RUN_FILE).read_text())["waiting"] == []


def test_a_student_without_known_faults_has_no_auroc_in_a_run_or_in_json(store, tmp_path, capsys):
    with tracked("press", tmp_path, title="a.ckpt") as tracker:
        write_student_and_report(tmp_path / "a.ckpt", make_normal_student(), tracker, json=True)
    assert json.loads(capsys.readouterr().out)["facts"]["score"] is None
    assert set(runs_of(store, "press")["a.ckpt"].data.metrics) == {"best_step"}


def test_a_distillation_is_a_run_with_its_recipe(store, dataset, teacher_checkpoint, tmp_path):
    teacher = write_random_teacher(tmp_path / "teacher.ckpt", teacher_checkpoint, dataset)
    words = ["--modality", "acc", "--preset", "tiny", "--steps", 2, "--no-choose", "--term", "logit"]
    ended(run_distill, teacher, dataset.path, *words, "--mlflow", "press", "-o", tmp_path / "student.ckpt")
    run = runs_of(store, "press")["student.ckpt"]
    assert [step for step, _ in points(store, run, "train/logit")] == [2]
    assert run.data.params["teacher_sha256"] == file_sha256(teacher)
    assert json.loads(run.data.params["recipe.terms"])[0]["type"] == "logit"


def test_what_a_server_refuses_is_left_out_and_the_rest_goes_on(store, tmp_path, capsys):
    with tracked("press", tmp_path, title="a.ckpt") as tracker:
        tracker.record(params={"steps": 6})
        tracker.record(metrics={"no such sign?": 7})
        tracker.record_file(tmp_path / "none.html")
        tracker.record(metrics={"score": 0.5, "gap": None})
    run = runs_of(store, "press")["a.ckpt"]
    assert (run.data.params, run.data.metrics) == ({"steps": "6"}, {"score": 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--mlflow: ")
    assert line.endswith("; the command goes on, and sends what is missing later")


def test_the_trainings_of_a_study_are_runs_in_its_run(store, machines, tmp_path):
    options = (
        "--modality acc --grid --steps 6 --teacher-steps 6 --student tiny --teacher tiny --method logit --seeds 1"
        " --learning-rate 0.01 --rival extra_trees --no-latency --mlflow press"
    )
    for _ in range(2):  # nothing is made, or recorded, again
        ended(run_study, machines.path, "-o", tmp_path / "study", *options.split())
    runs = runs_of(store, "press")
    whole = runs.pop("study")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {whole.info.run_id}
    assert {"seed 0 teacher acc+gyro:tiny", "seed 0 acc labels only tiny", "seed 0 acc logit tiny"} <= set(runs)
    student = runs["seed 0 acc logit tiny"]
    assert (student.data.params["seed"], student.data.params["learning_rate"]) == ("0", "0.01")
    assert [step for step, _ in points(store, student, "train/loss")] == [6]
    assert files(store, whole) == {"study.json", "report.html", "student.ckpt"}


def test_a_library_or_an_address_that_is_wrong_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "pigeon://loft")
    with pytest.raises(UsageError) as error, tracked("press", tmp_path, title="a.ckpt"):
        pass
    assert str(error.value).startswith(
        "--mlflow: expected the address of a server in MLFLOW_TRACKING_URI, such as http://HOST:5000, got "
        "pigeon://loft: "
    )
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UnavailableError) as missing, tracked("press", tmp_path, title="a.ckpt"):
        pass
    assert str(missing.value) == "--mlflow needs mlflow, which this Python lacks; run: pip install 'mmkd-edge[mlflow]'"


@pytest.fixture(scope="session")
def mlflow_program(tmp_path_factory):
    """MLflow's server, from PATH or from the package registry."""
    if found := shutil.which("mlflow"):
        return found
    folder = tmp_path_factory.mktemp("mlflow")
    venv.create(folder, with_pip=True, symlinks=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "mlflow"], check=True)
    return str(folder / "bin" / "mlflow")


def served(program, folder, port):
    store = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
    for _ in range(3000):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            assert server.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        else:
            return server
    raise AssertionError((folder / "server.log").read_text())


@pytest.mark.slow
@pytest.mark.network
def test_a_server_that_is_killed_and_started_again_has_the_whole_run(mlflow_program, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = served(mlflow_program, tmp_path, port)
    try:
        with tracked("press", tmp_path / "run", title="a.ckpt") as tracker:
            tracker.record_curve(CURVE[:1])
            os.killpg(server.pid, 9)
            server.wait()
            tracker.record_curve(CURVE[:2])
            tracker.record_file(Path(__file__))
        server = served(mlflow_program, tmp_path, port)
        with tracked("press", tmp_path / "run", title="a.ckpt", resume=True) as tracker:
            tracker.record_curve(CURVE)
        client = mlflow.MlflowClient()
        (run,) = runs_of(client, "press").values()
        assert points(client, run, "valid/score") == [(2, 0.2), (4, 0.4), (6, 0.6)]
        assert (run.info.status, files(client, run)) == ("FINISHED", {Path(__file__).name})
    finally:
        os.killpg(server.pid, 9)
        server.wait()
