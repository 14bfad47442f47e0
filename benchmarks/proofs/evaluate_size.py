"""How much memory an evaluation takes of a dataset that is larger than memory.

    python benchmarks/proofs/evaluate_size.py --gb 10
    python benchmarks/proofs/evaluate_size.py --gb 3 --suite groups --suite confidence --folder /scratch

Writes a dataset whose test split has that size, block by block, trains a student for two steps on its small training
split, and judges it by `mmkd-evaluate` in a process of its own, whose memory Linux tells (`proc(5)`, status): all that
is resident, and of it what is not a page of a mapped file, which the kernel takes back when others need it. The
dataset is deleted afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_models.data.spec import SPEC_FILE, DatasetSpec
from proofs.memory import peaks
from proofs.script import head, parser_of, row

SAMPLES, CHANNELS, CLASSES = 4096, 64, 3
_SMALL = 96  # windows of train and of valid
_BLOCK = 32  # windows
_EVERY_S = 0.05
_WINDOW_BYTES = SAMPLES * CHANNELS * 4


def main() -> None:
    """Write, train, judge and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("--gb", type=float, default=10.0, help="size of the test split, in 10^9 bytes")
    parser.add_argument("--suite", action="append", metavar="NAME", help="of mmkd-evaluate; groups where none is given")
    parser.add_argument("--folder", type=Path, help="where the dataset lies meanwhile; else as Python's tempfile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data, student = Path(folder) / "data", Path(folder) / "student.ckpt"
        windows = max(_SMALL, round(options.gb * 1e9 / _WINDOW_BYTES))
        write(data, windows)
        subprocess.run(
            [*command("train"), "student", str(data), "--modality", "vib", "--steps", "2", "-o", str(student)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        suites = [word for name in options.suite or ["groups"] for word in ("--suite", name)]
        print(head("GB of windows", "windows", "resident at most, GB", "of it no file's pages, GB", "seconds", texts=0))
        began = time.monotonic()
        process = subprocess.Popen(
            [*command("evaluate"), str(student), str(data), *suites, "--json"], stdout=subprocess.DEVNULL
        )
        resident, own = peaks(process, every_s=_EVERY_S)
        if process.returncode:
            raise SystemExit(process.returncode)
        seconds = time.monotonic() - began
        size = windows * _WINDOW_BYTES / 1e9
        print(row(f"{size:.1f}", windows, f"{resident / 1e9:.2f}", f"{own / 1e9:.2f}", f"{seconds:.0f}"))


def command(name: str) -> list[str]:
    """Gives the words that start a command of the training side with this Python."""
    return [sys.executable, "-c", f"from mmkd_models.commands.{name} import main; main()"]


def write(path: Path, windows: int) -> None:
    """Writes a dataset with so many test windows; no block of it is larger than some megabytes in memory."""
    counts = {"train": _SMALL, "valid": _SMALL, "test": windows}
    modality = ModalitySpec(
        name="vib", channels=tuple(f"c{number}" for number in range(CHANNELS)), rate_hz=1000.0, samples=SAMPLES
    )
    labels = tuple(f"state {number}" for number in range(CLASSES))
    spec = DatasetSpec(name="large", task=TaskSpec(labels=labels), modalities=(modality,), splits=counts)
    path.mkdir(parents=True)
    (path / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    for number, (split, count) in enumerate(counts.items()):
        (path / split).mkdir()
        np.save(path / split / "labels.npy", np.arange(count) % CLASSES)
        np.save(path / split / "groups.npy", 1000 * number + np.arange(count) * 12 // count)
        with (path / split / "vib.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, SAMPLES, CHANNELS)}
            np.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call]
            for block in blocks(count, seed=number):
                file.write(block.tobytes())


def blocks(count: int, *, seed: int) -> Iterator[NDArray[np.float32]]:
    """Gives noise, louder by the class; the same noise in every block, which takes little time."""
    noise = np.random.default_rng(seed).standard_normal((_BLOCK, SAMPLES, CHANNELS), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        loud = (1 + (start + np.arange(size)) % CLASSES).astype(np.float32)
        yield loud[:, None, None] * noise[:size]


if __name__ == "__main__":
    main()
