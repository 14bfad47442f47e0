"""Names in any script, from the dataset to the prediction, and on a terminal that knows ASCII alone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmkd_app.commands.distill import run_distill
from mmkd_app.commands.train import run_train
from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_models.data import write_dataset

VIBRATION = ModalitySpec(name="振動", channels=("x軸", "y軸"), unit="g", rate_hz=20.0, samples=40)
CURRENT = ModalitySpec(name="धारा", channels=("ए",), unit="A", rate_hz=20.0, samples=40)  # with vowel signs
LABELS = ("正常", "摩耗")
TRAINING = ("--preset", "tiny", "--steps", "2", "--batch", "8")


def split(count, *, first_group):
    rng = np.random.default_rng(first_group)
    labels = np.arange(count) % 2
    wave = np.sin(np.arange(40) * (0.6 + 0.9 * labels[:, None]))[..., None]  # (N, T, 1)
    return {
        "振動": (wave + rng.normal(0, 0.2, (count, 40, 2))).astype(np.float32),
        "धारा": (wave + rng.normal(0, 0.2, (count, 40, 1))).astype(np.float32),
        "labels": labels,
        "groups": first_group + np.arange(count) // 4,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, a teacher, a student and its bundle, whose names are in Japanese and Hindi."""
    folder = tmp_path_factory.mktemp("工場")
    splits = {name: split(16, first_group=100 * number) for number, name in enumerate(("train", "valid", "test"))}
    write_dataset(folder / "データ", name="プレス", labels=LABELS, modalities=[VIBRATION, CURRENT], splits=splits)
    data, teacher, student = (str(folder / name) for name in ("データ", "教師.ckpt", "生徒.ckpt"))
    with pytest.raises(SystemExit, match="0"):
        run_train(["teacher", data, "-o", teacher, "--members", "transformer", *TRAINING])
    with pytest.raises(SystemExit, match="0"):
        run_distill([teacher, data, "--modality", "振動", "--no-choose", "-o", student, *TRAINING])
    export(export_plan(Path(student), output=folder / "生徒.edge"))
    return folder


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_modality_in_any_script_reaches_the_prediction(folder, backend):
    with EdgePredictor.open(folder / "生徒.edge", backend=backend) as predictor:
        prediction = predictor.predict({"振動": np.zeros((40, 2), np.float32)})
        assert (prediction.modality, prediction.status) == ("振動", "ok")
        assert prediction.label in LABELS
        assert predictor.selftest().label_agreement == 1.0


def test_names_of_any_script_are_seen_by_unzip_and_are_json_in_ascii(folder):
    with zipfile.ZipFile(folder / "生徒.edge") as archive:
        assert {"振動/model.fp32.onnx", "振動/golden.npz"} < set(archive.namelist())
        assert archive.testzip() is None
    done = on_ascii_terminal("mmkd-data", "describe", "データ", "--json", folder=folder)
    assert json.loads(done.stdout.decode("ascii"))["name"] == "プレス"


def on_ascii_terminal(*line, folder):
    environment = os.environ | {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name(line[0]), *line[1:]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (["mmkd-data", "describe", "データ"], r"\u30d7\u30ec\u30b9: 48 windows, 2 classes, 12 groups"),
        (["mmkd-inspect", "生徒.edge"], r"\u632f\u52d5.labels"),
        (["mmkd-data", "check", "無い"], r"mmkd-data: \u7121\u3044: expected a dataset directory, found none there"),
    ],
)
def test_an_ascii_terminal_shows_what_it_can(folder, line, shown):
    done = on_ascii_terminal(*line, folder=folder)
    said = done.stdout.decode("ascii") + done.stderr.decode("ascii")
    assert done.returncode == (2 if "無い" in line else 0), said
    assert shown in said
