"""Two students in one bundle: when the first sensor dies the second one answers, and the prediction says so.

    python examples/two_sensor_fallback.py 300

The number is that of training steps; without it they are far too few to be good. Needs `mmkd-edge[export]`. As
commands: `mmkd-train student` or `mmkd-distill` for each sensor, then `mmkd-export acc.ckpt gyro.ckpt -o both.edge`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mmkd_edge import EdgePredictor
from mmkd_export.pipeline import export_several
from mmkd_export.plan import export_plan
from mmkd_models.data import open_dataset, shipped_dataset
from mmkd_models.defaults import AUGMENT
from mmkd_models.networks.config import student_config
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.checkpoint import write_student
from mmkd_models.training.inputs import TrainingData, TrainingRequest, TrainingRun
from mmkd_models.training.students import train_student


def bundle_of_both(folder: Path, steps: int) -> Path:
    """Train a student of each sensor and export them together, the better sensor first."""
    dataset = open_dataset(shipped_dataset("watch_exercises"))
    data = TrainingData(train=dataset.split("train"), valid=dataset.split("valid"), sha256=dataset.sha256)
    run = TrainingRun(train=TrainConfig(steps=steps, batch=16, eval_every=steps), augment=AUGMENT)
    for sensor in ("acc", "gyro"):
        write_student(
            folder / f"{sensor}.ckpt", train_student(TrainingRequest(data, sensor, student_config("tiny"), run))
        )
    plans = [export_plan(folder / f"{sensor}.ckpt") for sensor in ("acc", "gyro")]
    export_several(plans, output=folder / "both.edge")
    return folder / "both.edge"


def main(steps: int) -> None:
    """Pull the cable of one sensor, then of both."""
    window = open_dataset(shipped_dataset("watch_exercises")).split("test").take([0])
    acc, gyro = window["acc"][0], window["gyro"][0]  # (T, C) each
    with TemporaryDirectory() as folder, EdgePredictor.open(bundle_of_both(Path(folder), steps)) as predictor:
        for given in ({"acc": acc, "gyro": gyro}, {"acc": None, "gyro": gyro}, {"acc": None, "gyro": None}):
            answer = predictor.predict(given)
            print(f"{answer.modality or '-':<5}{answer.status:<10}{answer.label or '-':<5}{answer.reason}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
