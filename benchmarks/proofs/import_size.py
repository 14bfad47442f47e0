"""What an import of large logs takes: megabytes a second and memory, beside polars that reads the same files alone.

    python benchmarks/proofs/import_size.py FOLDER
    python benchmarks/proofs/import_size.py FOLDER --gigabytes 6 --machines 6 --kept

Writes one CSV of 1 kHz and three channels for each machine, and intervals of two states. Then `mmkd-data import` makes
windows of a second of them, in a process of its own, and another process has polars read each file and add up its
columns, streaming. Of both the largest memory is sampled ten times a second: anonymous, which is the process's own, and
all that is resident, in which pages of files count that the system may take back at any time. Seconds of the processor
are those of all threads; they say more than the clock where others work on the machine. Prints Markdown. FOLDER
takes about twice the logs; `--kept` leaves them there. Needs `mmkd-edge[train,import]`.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from proofs.memory import peaks
from proofs.script import head, parser_of, row

RATE_HZ, CHANNELS, START_S = 1000, ("x", "y", "z"), 1_762_151_400
STATE_S = 600
_BLOCK_ROWS = 1 << 20
_SAMPLE_S = 0.1
_RECIPE = f"""version = 1
[[source]]
modality = "acc"
files = "{{machine}}/acc.csv"
time = "time"
rate_hz = {RATE_HZ}
[labels]
files = "{{machine}}/states.csv"
[windows]
length_s = 1.0
[split]
group = "machine"
"""
_IMPORT = "from mmkd_models.commands.data import main; main()"
_POLARS = """
import sys
import polars as pl
for file in sys.argv[1:]:
    print(pl.scan_csv(file).select(pl.all().sum()).collect(engine="streaming"))
"""


def main() -> None:
    """Write the logs, read them in both ways, and print what that took."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the logs and of the dataset")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="of all logs together")
    parser.add_argument("--machines", type=int, default=6, help="each is one file and one recording")
    parser.add_argument("--kept", action="store_true", help="leave the logs in FOLDER, and take those that are there")
    options = parser.parse_args()
    logs, out = options.folder / "logs", options.folder / "dataset"
    if not logs.exists():
        write_logs(logs, options.gigabytes, options.machines)
    files = sorted(logs.glob("*/acc.csv"))
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    print(f"{size_mb / 1e3:.2f} GB in {len(files)} files, {RATE_HZ} Hz, {len(CHANNELS)} channels\n")
    print(head("read by", "s", "MB/s", "processor, s", "anonymous, MB", "resident, MB"))
    ways = {
        "`mmkd-data import`": [sys.executable, "-c", _IMPORT, "import", str(logs / "recipe.toml"), "-o", str(out)],
        "polars alone": [sys.executable, "-c", _POLARS, *map(str, files)],
    }
    for name, command in ways.items():
        taken_s, busy_s, anonymous_mb, resident_mb = measured(command)
        speed = (f"{taken_s:.1f}", f"{size_mb / taken_s:.0f}", f"{busy_s:.1f}")
        print(row(name, *speed, f"{anonymous_mb:.0f}", f"{resident_mb:.0f}"), flush=True)
    shutil.rmtree(out)
    if not options.kept:
        shutil.rmtree(logs)


def write_logs(folder: Path, gigabytes: float, machines: int) -> None:
    """Writes the logs, their intervals and the recipe."""
    for machine in range(machines):
        (folder / f"M{machine}").mkdir(parents=True)
        begin_ms = 1000 * START_S
        rows = _write_log(folder / f"M{machine}" / "acc.csv", begin_ms, gigabytes * 1e9 / machines, seed=machine)
        lines = ["start,end,label"]
        for number, start in enumerate(range(START_S, START_S + rows // RATE_HZ, STATE_S)):
            lines.append(f"{start},{start + STATE_S},{('run', 'idle')[number % 2]}")
        (folder / f"M{machine}" / "states.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(_RECIPE)


def _write_log(file: Path, begin_ms: int, size_bytes: float, *, seed: int) -> int:
    """Writes rows until the file is so large, and gives how many they are."""
    import polars as pl

    rng = np.random.default_rng(seed)
    rows = 0
    with file.open("wb") as opened:
        while opened.tell() < size_bytes:
            times = begin_ms + rows + np.arange(_BLOCK_ROWS)
            values = rng.normal(size=(_BLOCK_ROWS, len(CHANNELS))).astype(np.float32)
            columns = {name: values[:, number] for number, name in enumerate(CHANNELS)}
            frame = pl.DataFrame({"time": times, **columns})
            frame.write_csv(opened, include_header=not rows, float_precision=5)
            rows += _BLOCK_ROWS
    return rows


def measured(command: list[str]) -> tuple[float, float, float, float]:
    """Runs a command; gives its seconds, those of the processor, and the most of both memories in MB."""
    begun_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        resident, anonymous = peaks(process, every_s=_SAMPLE_S)
        assert process.stderr is not None
        if process.returncode:
            raise SystemExit(process.stderr.read())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun_s, busy_s, anonymous / 1e6, resident / 1e6


if __name__ == "__main__":
    main()
