"""Compare latency and start-up time of two checkouts of this project.

    git worktree add ../before COMMIT
    chrt --rr 5 python benchmarks/checks/against_before.py --before ../before --causal CAUSAL.edge

Both checkouts predict the golden windows of the bundle that the earlier one ships, with the same backend on one thread.
Every round starts one process per checkout and reverses the order of the last round. Installed packages come from this
interpreter, the code from the checkout. The table has the medians over the rounds, and the median, minimum and maximum
of the ratios within a round: other load on the machine then slows down both processes of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from checks.script import head, row, script_parser
from mmkd_edge import Bundle

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "models", "export", "benchmarks", "reports")
SHIPPED = "mmkd_edge/bundles/watch_acc.edge"
WINDOWS = 64
Figures = Mapping[str, float]


def main() -> None:
    """Time both checkouts in turn and print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the earlier checkout")
    parser.add_argument("--causal", type=Path, required=True, metavar="CAUSAL.edge", help="a bundle that both read")
    parser.add_argument("--backend", choices=("ort", "openvino"), default="ort")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="time per group of calls")
    options = parser.parse_args()
    rounds: list[tuple[Figures, Figures]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = timing_arguments(options, folder)
        for number in range(options.rounds + 1):
            sides: dict[Path, Figures] = {}
            for root in (options.before.absolute(), ROOT)[:: 1 if number % 2 else -1]:
                sides[root] = json.loads(run_in_checkout(root, arguments, folder).splitlines()[-1])
            if number:  # the first round compiles modules and fills the caches
                rounds.append((sides[options.before.absolute()], sides[ROOT]))
    print(table(rounds))


def timing_arguments(options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the arguments of the process that times a checkout's calls."""
    bundle = (options.before / SHIPPED).absolute()
    files = (Path(__file__).with_name("timed_calls.py"), bundle, options.causal.absolute())
    script, *bundles = map(os.fspath, files)
    return [script, options.backend, *bundles, os.fspath(write_golden_windows(bundle, folder)), str(options.seconds)]


def write_golden_windows(bundle: Path, folder: Path) -> Path:
    """Write the golden windows of a bundle to a file and return its path."""
    with Bundle.open(bundle) as opened:
        windows = opened.golden(opened.manifest.models[0].name).windows[:WINDOWS]
    np.save(folder / "windows.npy", windows)
    return folder / "windows.npy"


def run_in_checkout(root: Path, arguments: Sequence[str], folder: Path) -> str:
    """Run a script with the packages and the cache of one checkout; return what it printed."""
    cache = folder / str(abs(hash(root)))
    cache.mkdir(mode=0o700, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in FOLDERS),
        "PYTHONPYCACHEPREFIX": str(cache / "compiled"),
        "PYTHONDONTWRITEBYTECODE": "",
        "XDG_CACHE_HOME": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return process.stdout


def table(rounds: Sequence[tuple[Figures, Figures]]) -> str:
    """Return the table of medians and ratios, one row per figure."""
    rows = [head("", "before", "now", "now over before", "smallest to largest")]
    for name in rounds[0][1]:
        before, now = np.array([(earlier[name], current[name]) for earlier, current in rounds]).T
        ratios = now / before
        figures = (f"{np.median(before):.4g}", f"{np.median(now):.4g}", f"{np.median(ratios):.2f}")
        rows.append(row(name, *figures, f"{ratios.min():.2f} to {ratios.max():.2f}"))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
