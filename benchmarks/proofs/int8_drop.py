"""What INT8 costs students of a microphone or a camera, on all windows of a dataset that they did not learn from.

    python benchmarks/proofs/int8_drop.py DATA lips.ckpt voice.ckpt

Each checkpoint is exported as `mmkd-export CHECKPOINT --precision int8 --eval FILE` does, where FILE holds the
validation and the test windows of the dataset's own split: INT8 ranges come from the windows that the checkpoint
carries, which are validation windows too, and the gate is that of every export. Prints a Markdown table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.errors import GateError
from mmkd_edge.frames import bytes_of, missing_frames
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.data import Dataset, open_dataset
from mmkd_models.training.checkpoint import read_student
from proofs.script import head, parser_of, row


def main() -> None:
    """Export every checkpoint and print what its INT8 artifact lost."""
    parser = parser_of(__doc__)
    parser.add_argument("data", help="dataset directory")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="students that learned from it")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data)
    print(
        head(
            "sensor", "student", "parameters", "windows", "fp32, %", "int8, %", "drop, points", "same label, %", texts=2
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.checkpoints:
            print(judged(path, dataset, Path(folder)), flush=True)


def judged(path: Path, dataset: Dataset, folder: Path) -> str:
    """The row of one checkpoint: balanced accuracy of both artifacts on the same windows, and what the gate says."""
    student = read_student(path)
    name = student.modality.name
    windows = unlearned(dataset, name, folder / f"{name}.npz")
    kind = "causal" if student.config.causal else student.config.kind
    plan = ExportPlan(
        source=path,
        output=folder / f"{path.stem}.edge",
        targets=("onnx",),
        precisions=("int8",),
        evaluation=windows,
    )
    size = sum(tensor.numel() for tensor in student.network().parameters())
    try:
        report = export(plan).report
    except GateError as error:
        return row(name, kind, f"{size:,}", "refused", str(error), "", "", "")
    fp32, int8 = (next(one for one in report.artifacts if one.precision == wanted) for wanted in ("fp32", "int8"))
    assert int8.gate is not None
    figures = [f"{one.scores.balanced_accuracy * 100:.2f}" for one in (fp32, int8) if one.scores is not None]
    return row(
        name,
        kind,
        f"{size:,}",
        int8.gate.windows,
        *figures,
        f"{int8.gate.drop_points:.2f}",
        f"{int8.gate.label_agreement * 100:.1f}",
    )


def unlearned(dataset: Dataset, name: str, path: Path) -> Path:
    """Writes the validation and the test windows of one sensor to an .npz file."""
    splits = [dataset.split(split).with_modalities((name,)) for split in ("valid", "test")]
    taken = [split.take(np.arange(len(split)))[name] for split in splits]
    whole = [~missing_frames(part) if part.dtype == np.uint8 else np.isfinite(part) for part in taken]
    if not all(part.all() for part in whole):
        raise SystemExit(f"{name}: expected windows that miss nothing, as a file of windows holds them")
    windows = np.concatenate([bytes_of(part) if part.dtype == np.uint8 else part for part in taken])
    labels = np.concatenate([split.labels for split in splits])
    arrays: dict[str, Any] = {f"x_{name}": windows, "y": labels, "classes": np.array(dataset.spec.task.labels)}
    np.savez(path, **arrays)
    return path


if __name__ == "__main__":
    main()
