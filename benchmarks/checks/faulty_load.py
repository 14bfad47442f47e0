"""Hours of load with every fault at random: is any answer wrong, or any lost without a count?

    python benchmarks/checks/faulty_load.py STUDENT.edge OTHER.edge
    python benchmarks/checks/faulty_load.py STUDENT.edge OTHER.edge --minutes 20 --seed 3

A process (`faulty_process.py`) opens an installed student, answers a load as `mmkd-bench` offers it, in several
threads, and streams beside it, while sensors, callers and the engine fail at random. Around it bundles are installed,
refused and rolled back, installers are killed or have no room to write, the cache folder is emptied or filled with
rubbish. The process gets signals whose handler calls the predictor, and is ended by SIGTERM or SIGKILL. What a thread
was asked and what came of it is counted in memory that outlives the process: a kill may cost one call of each thread.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from checks.faulty_process import COLUMNS, THREADS
from checks.mutants import write_mutant
from checks.script import head, row, script_parser
from mmkd_edge import EdgePredictor, MmkdError, UsageError
from mmkd_edge.install.slots import SLOTS_FILE, install, rollback

PROCESS = Path(__file__).with_name("faulty_process.py")
DAMAGED = 4
DISTURBANCES = (
    *("installations", "installations", "installations of damaged bundles", "rollbacks of the installation"),
    *("installers killed", "installers without room", "caches emptied", "caches filled with rubbish"),
)


def main() -> None:
    """Load, break, and print what came of it."""
    parser = script_parser(__doc__)
    parser.add_argument("bundle", type=Path, metavar="STUDENT.edge")
    parser.add_argument("other", type=Path, metavar="OTHER.edge", help="takes and answers the same")
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a process that has no predictor yet inherits this
    with tempfile.TemporaryDirectory() as folder:
        totals = Attack(options, Path(folder), dice).run()
    print(head("what", "count"))
    for name, count in totals.items():
        print(row(name, f"{count:,}"))
    bad = sum(count for name, count in totals.items() if name.startswith("BAD"))
    print(f"{options.minutes:g} minutes, {totals['calls']:,} calls, {bad} bad")
    sys.exit(4 if bad else 0)


class Attack:
    """What happens to the process, its state folder and its cache.

    Args:
        options: the bundles, how long, and the seed.
        folder: for everything that is written.
        dice: decides what comes next.
    """

    def __init__(self, options: Any, folder: Path, dice: random.Random) -> None:
        self._options = options
        self._folder = folder
        self._dice = dice
        self._state = folder / "state"
        self._cache = folder / "cache"
        self._totals: Counter[str] = Counter(calls=0, right=0, refused=0, said=0, wrong=0)

    def run(self) -> Counter[str]:
        """Start the process again and again, and disturb it."""
        self._cache.mkdir(mode=0o700)
        for number in range(DAMAGED):
            write_mutant(self._options.bundle, self._damaged_path(number), backend="ort", seed=7, number=2 * number + 1)
        install(self._state, self._options.bundle, prove=_proven)
        until = time.monotonic() + 60 * self._options.minutes
        while time.monotonic() < until:
            self._one_life(min(until, time.monotonic() + self._dice.uniform(20, 90)))
        return self._totals

    def _damaged_path(self, number: int) -> Path:
        return self._folder / f"damaged{number}.edge"

    def _one_life(self, until: float) -> None:
        tally_file = self._folder / "tally"
        tally_file.write_bytes(bytes(8 * len(COLUMNS) * THREADS))
        given = [self._options.bundle, self._options.other, self._state, tally_file, self._dice.randrange(1 << 30)]
        command = [sys.executable, str(PROCESS), *map(str, given)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(self._cache), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            while time.monotonic() < until and process.poll() is None:
                time.sleep(self._dice.uniform(0.5, 4))
                self._disturb()
                if process.poll() is None:
                    process.send_signal(signal.SIGUSR1)
            ended_by_us = process.poll() is None
            how = self._dice.choice((signal.SIGTERM, signal.SIGKILL))
            process.send_signal(how)
            told, _ = process.communicate(timeout=120)
        self._totals["starts of the process"] += 1
        self._settle(tally_file, told.splitlines(), killed=ended_by_us and how == signal.SIGKILL)
        if not ended_by_us or process.returncode not in (0, -signal.SIGKILL):
            self._note(f"BAD: the process ended with {process.returncode}")

    def _settle(self, tally_file: Path, lines: Sequence[str], *, killed: bool) -> None:
        """Hold what was asked against what came of it."""
        tally = np.frombuffer(tally_file.read_bytes(), dtype=np.int64).reshape(-1, len(COLUMNS))
        cut_off = tally[:, 0] - tally[:, 1:].sum(axis=1)
        for name, count in zip(("calls", *COLUMNS[1:]), tally.sum(axis=0).tolist(), strict=True):
            self._totals[name] += count
        self._totals["calls that a SIGKILL cut off"] += int(cut_off.sum()) if killed else 0
        if (cut_off > (1 if killed else 0)).any() or (cut_off < 0).any():
            self._note("BAD: calls were lost without a count", int(cut_off.sum()))
        if tally[:, 4].any():
            self._note("BAD: wrong answers", int(tally[:, 4].sum()))
        for line in lines:
            for name, count in json.loads(line).items():
                self._note(name, count)

    def _note(self, name: str, count: int = 1) -> None:
        self._totals[name] += count
        if name.startswith("BAD") and count:
            print(name, count, file=sys.stderr, flush=True)

    def _disturb(self) -> None:
        """One thing, at random."""
        name, bundle = self._dice.choice(DISTURBANCES), self._dice.choice((self._options.bundle, self._options.other))
        cached = list(self._cache.rglob("*.json"))
        match name:
            case "installations":
                try:
                    install(self._state, bundle, prove=_proven, allow_downgrade=True)
                except MmkdError as error:
                    self._note(f"BAD: an installation failed: {error}")
            case "installations of damaged bundles":
                self._install_damaged()
            case "rollbacks of the installation":
                with suppress(UsageError):  # there may be nothing to return to
                    rollback(self._state)
            case "installers killed":
                with self._start_installer(bundle) as child:
                    time.sleep(self._dice.uniform(0, 0.6))
                    child.kill()
            case "installers without room":
                child = self._start_installer(bundle)
                resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (self._dice.choice((0, 1000, 100_000)),) * 2)
                if child.wait() == 0:
                    self._note("installers that were done before they had no room")
            case "caches emptied":
                for path in cached:
                    path.unlink(missing_ok=True)
            case "caches filled with rubbish":
                for path in cached:
                    with suppress(OSError):
                        path.write_bytes(self._dice.randbytes(self._dice.choice((0, 10, 400))))
        self._note(name)

    def _install_damaged(self) -> None:
        before = (self._state / SLOTS_FILE).read_bytes()
        try:
            install(self._state, self._damaged_path(self._dice.randrange(DAMAGED)), prove=_proven)
        except MmkdError:
            if (self._state / SLOTS_FILE).read_bytes() != before and not _started_meanwhile(before, self._state):
                self._note("BAD: a refused installation changed the state")
        else:
            self._note("BAD: a damaged bundle was installed")

    def _start_installer(self, bundle: Path) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from pathlib import Path; from mmkd_edge.install.slots import install\n"
            "install(Path(sys.argv[1]), Path(sys.argv[2]), prove=lambda path: None, allow_downgrade=True)"
        )
        command = [sys.executable, "-c", code, str(self._state), str(bundle)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _started_meanwhile(before: bytes, state: Path) -> bool:
    """Whether only how the first start went has changed."""
    old, new = json.loads(before), json.loads((state / SLOTS_FILE).read_bytes())
    return bool({old["current"]["sha256"], (old["previous"] or old["current"])["sha256"]} >= {new["current"]["sha256"]})


def _proven(path: Path) -> None:
    """As `mmkd-edge install` proves a bundle: tried, and asked all its golden windows."""
    with EdgePredictor.open(path, backend="ort", threads=1) as predictor:
        predictor.selftest()


if __name__ == "__main__":
    main()
