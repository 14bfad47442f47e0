"""What `mmkd-run`'s loop carries: many stations in one process, for hours, then at a multiple of the rate.

    python benchmarks/checks/live_load.py FOLDER --hours 2
    python benchmarks/checks/live_load.py FOLDER --hours 0.1 --beyond-minutes 1 --stations 20 --rate-hz 1000 --times 5
    python benchmarks/checks/live_load.py FOLDER --stores 10 --rate-hz 500

Each station reads noise of three channels in blocks of 20 ms, through the same intake, stream and sink as `mmkd-run`,
and answers every half second by a student with random weights. A first run at the rate says how memory grows after a
warm-up of a tenth of the time, how long it took from the arrival of samples to their result, and what was dropped. A
second comes at `--times` the rate: what is dropped then is counted, and results must not wait longer and longer, so
that the longest of the second half stands beside that of the first. With `--stores` results alone go to a file, as many
a second as `--rate-hz`, without a store, with one and with `--store-loss 0.2s` in turn: what one costs. Prints
Markdown. Needs `mmkd-edge[export,live]`; the student stays in FOLDER.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from checks.script import head, row, script_parser
from mmkd_edge.health.monitor import EDGES
from mmkd_edge.predictor import EdgePredictor
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_station.clock import SensorRules
from mmkd_station.intake import Delivery, Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import Sink, Source
from mmkd_station.protocols.table import open_sink
from mmkd_station.records import Record, ResultRecord
from mmkd_station.sensor import Sensor
from mmkd_station.service import RunFacts, Service
from mmkd_station.station import Station
from mmkd_station.store import Store

CHANNELS = ("x", "y", "z")
BLOCK_S, HOP_S, QUEUE = 0.02, 0.5, 64


def noise(rate_hz: float) -> Source:
    """Return blocks of noise at a pace; when a station cannot keep it, they come as fast as they can."""
    count = max(1, round(rate_hz * BLOCK_S))
    rows = np.random.default_rng(0).normal(size=(count, len(CHANNELS))).astype(np.float32)

    def deliveries(intake: Intake) -> Iterator[Delivery]:
        due_s = time.monotonic()
        while not intake.stop.wait(max(0.0, due_s - time.monotonic())):
            yield Delivery(rows=rows, times=None, arrived_s=time.monotonic())
            due_s += BLOCK_S

    return Source(deliveries=deliveries, live=True)


def main() -> None:
    """Make the student, run both loads, and print what they did."""
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps the student")
    parser.add_argument("--hours", type=float, default=2.0, help="of the first load")
    parser.add_argument("--beyond-minutes", type=float, default=12.0, help="of the second load")
    parser.add_argument("--stations", type=int, default=20)
    parser.add_argument("--rate-hz", type=float, default=1000.0)
    parser.add_argument("--times", type=float, default=5.0, help="the rate of the second load, in rates of the first")
    parser.add_argument("--stores", type=int, metavar="ROUNDS", help="compare stores in so many rounds of 3 x 10 s")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stores is not None:
        compare_stores(options)
        return
    bundle = export_student(options.folder, options.rate_hz)
    columns = ("minutes", "RSS growth, MB", "p50, ms", "p99.9, ms", "p99.9 of 1st and 2nd half, ms", "longest, ms")
    print(head("load", *columns, "results", "dropped samples", "share"))
    for name, factor, minutes in (
        ("the rate", 1.0, 60 * options.hours),
        (f"{options.times:g} times the rate", options.times, options.beyond_minutes),
    ):
        print(outcome_row(name, minutes, run_load(bundle, options, factor=factor, minutes=minutes)), flush=True)


@dataclass(frozen=True, kw_only=True)
class LoadOutcome:
    """The facts of a load at its end and at half of its time, and the growth of memory after the first tenth."""

    facts: RunFacts
    half: RunFacts
    growth_bytes: int


STORES = {"none": None, "`--store`": 0.0, "`--store --store-loss 0.2s`": 0.2}
RUN_S = 10.0


class _TimedSink(Sink):
    """Writes to a file, and notes how long after its decision each record came."""

    def __init__(self, path: Path) -> None:
        self._file = open_sink(f"jsonl:{path}")
        self.waits_ms: list[float] = []

    def write(self, records: Sequence[Record]) -> None:
        self._file.write(records)
        now_s = time.time()
        self.waits_ms += [1000 * (now_s - record.decided_s) for record in records]

    def close(self) -> None:
        self._file.close()


def compare_stores(options: argparse.Namespace) -> None:
    """Send results at a pace through one sink with each kind of store in turn, and print medians over the rounds."""
    rounds = [[send_results(options, loss_s) for loss_s in STORES.values()] for _ in range(options.stores)]
    print(head("store", "CPU a result, µs", "more than none", "to the sink, p50, ms", "p99.9, ms"))
    values = np.array(rounds)  # (rounds, stores, figures)
    more = np.median(values[:, :, 0] - values[:, :1, 0], axis=0)
    for place, name in enumerate(STORES):
        cpu_us, *waits_ms = np.median(values[:, place], axis=0)
        print(row(name, f"{cpu_us:.0f}", f"{more[place]:+.0f}", *(f"{wait_ms:.1f}" for wait_ms in waits_ms)))


def send_results(options: argparse.Namespace, loss_s: float | None) -> tuple[float, float, float]:
    """Return processor time a result, in µs, and how long half and 99.9 % took to reach the sink, in ms."""
    result = ResultRecord(
        station="press 1", time_s=0.0, decided_s=0.0, status="ok", reason="", label="sound", index=0, probability=0.9,
        probabilities=(0.9, 0.1), labels=("sound", "worn"), value=None, label_set=(), missing_fraction=0.0,
        modality="vibration", input_age_s=0.01, dropped=0, late=0, boot="0123456789abcdef",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = None
        if loss_s is not None:
            store = Store(Path(folder), most_bytes=64_000_000, loss_s=loss_s)
        sink = _TimedSink(Path(folder) / "results.jsonl")
        outlet = Outlet("jsonl", sink, store=store)
        began_s, cpu_s = time.monotonic(), time.process_time()
        for number in range(round(RUN_S * options.rate_hz)):
            time.sleep(max(0.0, began_s + number / options.rate_hz - time.monotonic()))
            outlet.put(msgspec.structs.replace(result, number=number, decided_s=time.time()))
        outlet.close()
        if store is not None:
            store.close()
        cpu_s = time.process_time() - cpu_s
    return 1e6 * cpu_s / len(sink.waits_ms), *np.quantile(sink.waits_ms, (0.5, 0.999))


def run_load(bundle: Path, options: argparse.Namespace, *, factor: float, minutes: float) -> LoadOutcome:
    """Run a load for `minutes`."""
    stop = threading.Event()
    memory: list[int] = []
    snapshots: list[RunFacts] = []  # at half of the time and at its end, before the service stops
    outlet = Outlet("jsonl", open_sink(f"jsonl:{os.devnull}"))
    with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
        rules = SensorRules(hop=round(HOP_S * options.rate_hz), time="arrival")
        stations = [
            Station(
                f"station {number}",
                predictor=predictor,
                sensors=[Sensor(noise(factor * options.rate_hz), "noise", predictor=predictor, rules=rules)],
                intake=Intake(most=QUEUE, may_drop=True),
                outlets=[outlet],
            )
            for number in range(options.stations)
        ]
        service = Service(stations=stations, outlets=[outlet], predictors=[(bundle, predictor)])

        def watch() -> None:
            stop.wait(60 * minutes / 10)
            for hundredth in range(101):
                memory.append(resident_bytes())
                if hundredth == 44:  # of the nine tenths that are left: half of all
                    snapshots.append(service.facts())
                stop.wait(0.9 * 60 * minutes / 100)
            snapshots.append(service.facts())
            stop.set()

        threading.Thread(target=watch, daemon=True).start()
        service.run(stop=stop, reload=threading.Event())
    return LoadOutcome(facts=snapshots[1], half=snapshots[0], growth_bytes=max(memory[1:]) - memory[0])


def outcome_row(name: str, minutes: float, outcome: LoadOutcome) -> str:
    """Return one row of the table."""
    facts = outcome.facts
    counts, first = latencies(facts), latencies(outcome.half)
    halves = " and ".join(f"{1000 * quantile(part, 0.999):.1f}" for part in (first, counts - first))
    results = sum(sum(station.results.values()) for station in facts.stations)
    samples = sum(station.intake.samples for station in facts.stations)
    dropped = sum(station.intake.dropped for station in facts.stations)
    longest_s = max(station.latency.max_s for station in facts.stations if station.latency is not None)
    within = [f"{1000 * quantile(counts, level):.1f}" for level in (0.5, 0.999)]
    return row(
        name, f"{minutes:g}", f"{outcome.growth_bytes / 1e6:.2f}", *within, halves, f"{1000 * longest_s:.1f}",
        f"{results:,}", f"{dropped:,}", f"{dropped / samples:.2%}",
    )  # fmt: skip


def latencies(facts: RunFacts) -> np.ndarray:
    """Return how many results of all stations took at most as long as each of `EDGES`."""
    counts: np.ndarray = np.sum(
        [station.latency.counts for station in facts.stations if station.latency is not None], axis=0
    )
    return counts


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quantile(counts: np.ndarray, level: float) -> float:
    """Return the upper edge, in seconds, of the bin that contains the quantile `level`."""
    return EDGES[min(int(np.searchsorted(counts, level * counts[-1])), len(EDGES) - 1)]


def export_student(folder: Path, rate_hz: float) -> Path:
    """Return the student as a bundle, with windows of one second."""
    bundle = folder / f"noise-{rate_hz:g}.edge"
    if not bundle.exists():
        modality = ModalitySpec(name="vibration", channels=CHANNELS, unit="g", rate_hz=rate_hz, samples=round(rate_hz))
        write_untrained(bundle.with_suffix(".ckpt"), modality)
        line = [sys.executable, "-c", "from mmkd_app.commands.export import main; main()"]
        subprocess.run([*line, bundle.with_suffix(".ckpt"), "-o", bundle], check=True, stdout=subprocess.DEVNULL)
    return bundle


def write_untrained(path: Path, modality: ModalitySpec) -> None:
    """Write a student that learnt nothing: weights do not change its time."""
    import torch

    from mmkd_models.carried import CarriedWindows
    from mmkd_models.defaults import AUGMENT
    from mmkd_models.networks.config import student_config
    from mmkd_models.networks.student import Student
    from mmkd_models.train_config import TrainConfig
    from mmkd_models.training.checkpoint import Provenance, StudentCheckpoint, write_student

    torch.manual_seed(0)
    task, config = TaskSpec(labels=("sound", "worn")), student_config("tiny")
    windows = np.random.default_rng(1).normal(size=(128, *modality.shape)).astype(np.float32)
    facts = Provenance(
        dataset="none", dataset_sha256="0" * 64, licence="none", metric="accuracy", score=0.0, best_step=0,
        training=TrainConfig(), augment=AUGMENT,
    )  # fmt: skip
    student = StudentCheckpoint(
        modality=modality,
        task=task,
        config=config,
        facts=facts,
        state=Student(modality, len(task.labels), config).state_dict(),
        carried=CarriedWindows(windows=windows, labels=np.arange(len(windows)) % len(task.labels)),
    )
    write_student(path, student)


if __name__ == "__main__":
    main()
