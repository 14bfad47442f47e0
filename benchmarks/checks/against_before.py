"""Two checkouts of this project beside each other: what a change costs at run time.

    git worktree add ../before COMMIT
    chrt --rr 5 python benchmarks/checks/against_before.py --before ../before --causal CAUSAL.edge

Both answer for the bundle that the earlier checkout ships, for the same golden windows, through one backend on one
thread. Every round starts a process of each, in the other order than the last; the packages are those of this
interpreter, and the code that of a checkout. Printed are the medians of the rounds, and the median, the smallest and
the largest ratio of a round: a machine that is busy for a while slows both of its processes down.
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
    """Time both in turn and print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the earlier checkout")
    parser.add_argument("--causal", type=Path, required=True, metavar="CAUSAL.edge", help="a bundle that both read")
    parser.add_argument("--backend", choices=("ort", "openvino"), default="ort")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each group of calls")
    options = parser.parse_args()
    rounds: list[tuple[Figures, Figures]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = calls_of(options, folder)
        for number in range(options.rounds + 1):
            sides: dict[Path, Figures] = {}
            for root in (options.before.absolute(), ROOT)[:: 1 if number % 2 else -1]:
                sides[root] = json.loads(run(root, arguments, folder).splitlines()[-1])
            if number:  # the first compiles modules, and makes the bundles known
                rounds.append((sides[options.before.absolute()], sides[ROOT]))
    print(table(rounds))


def calls_of(options: argparse.Namespace, folder: Path) -> list[str]:
    """What a process is told that times the calls of a checkout."""
    bundle = (options.before / SHIPPED).absolute()
    files = (Path(__file__).with_name("timed_calls.py"), bundle, options.causal.absolute())
    script, *bundles = map(os.fspath, files)
    return [script, options.backend, *bundles, os.fspath(golden_windows(bundle, folder)), str(options.seconds)]


def golden_windows(bundle: Path, folder: Path) -> Path:
    """The golden windows of a bundle in a file of their own."""
    with Bundle.open(bundle) as opened:
        windows = opened.golden(opened.manifest.models[0].name).windows[:WINDOWS]
    np.save(folder / "windows.npy", windows)
    return folder / "windows.npy"


def run(root: Path, arguments: Sequence[str], folder: Path) -> str:
    """What a program printed that imported the packages of a checkout; each checkout has a cache of its own."""
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
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def table(rounds: Sequence[tuple[Figures, Figures]]) -> str:
    """Medians of both and their ratio, a row for each figure."""
    rows = [head("", "before", "now", "now over before", "smallest to largest")]
    for name in rounds[0][1]:
        before, now = np.array([(one[name], other[name]) for one, other in rounds]).T
        ratios = now / before
        figures = (f"{np.median(before):.4g}", f"{np.median(now):.4g}", f"{np.median(ratios):.2f}")
        rows.append(row(name, *figures, f"{ratios.min():.2f} to {ratios.max():.2f}"))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
