"""What each of the calls of `predict` costs between two runs of the engine.

    chrt --rr 5 python benchmarks/proofs/predict_parts.py mmkd_edge/bundles/watch_acc.edge

Calls them one by one, as `predict` does, with a look at the clock between two of them, and the engine's own
`session.run` afterwards, so that each finds the caches as an engine leaves them. Printed are medians in microseconds;
a look at the clock, which is about 0.1, is in each of them. Of `backend.run` only what it takes beyond `session.run`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.ort import OrtBackend
from mmkd_edge.predict.engine import Engine, answer_of, engine_of
from mmkd_edge.predict.postprocess import interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.predict.setup import Setup
from mmkd_edge.watch.health import Monitor
from proofs.script import head, parser_of, row

PARTS = ("check_window", "prepare", "backend.run", "interpret", "counted for health", "given", "sum", "predict")


def main() -> None:
    """Time, and print a row for each part."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    with EdgePredictor.open(options.bundle, backend="ort", precision="fp32", threads=1) as predictor:
        assert predictor.bundle is not None
        windows = predictor.bundle.golden(predictor.entry.name).windows[:64]
        times = np.array(timed(predictor, same_engine(predictor), windows, options.seconds)) / 1e3
    print(head("median of windows in turn", "µs"))
    for name, took in zip(PARTS, np.median(times, axis=0), strict=True):
        print(row(name, f"{took:.1f}"))


def same_engine(predictor: EdgePredictor) -> Engine:
    """The predictor's own session, as an opened bundle's: with a setup, so that its answers are trusted as there."""
    entry = predictor.entry
    return engine_of(
        entry=entry,
        backend=predictor.backend,
        reference=predictor.reference,
        artifact=choose_artifact(entry, "fp32", "ort"),
        setup=Setup(backend="ort", precision="fp32", threads=1, reason="timed in parts"),
    )


def timed(predictor: EdgePredictor, engine: Engine, windows: Any, seconds: float) -> list[tuple[int, ...]]:
    """Nanoseconds of every part, for window after window."""
    modality, task, statistics = engine.modality, engine.task, engine.statistics
    run = cast(OrtBackend, predictor.backend).session.run
    names = [tensor.name for tensor in engine.entry.outputs]
    feeds = [engine.feeds(*prepare(check_window(one, modality), modality, engine.reference)) for one in windows]
    found: list[tuple[int, ...]] = []
    monitor, now = Monitor(every=16), time.perf_counter_ns
    end_s, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end_s:
        window, fed = windows[number % len(windows)], feeds[number % len(windows)]
        begun = now()
        array = check_window(window, modality)
        checked = now()
        values, present = prepare(array, modality, engine.reference)
        prepared = now()
        answers = answer_of(engine, values, present)
        answered = now()
        gaps = None if present is engine.complete else present
        prediction = interpret(answers[1], gaps, modality=modality, task=task, window=array)
        told = now()
        monitor.answered(statistics, prediction, values, present)
        counted = now()
        monitor.given((prediction,))
        given = now()
        run(names, fed)
        alone = now()
        predictor.predict(window)
        whole = now()
        run(names, fed)
        last = now()
        parts = checked - begun, prepared - checked, answered - prepared - (alone - given), told - answered
        beyond = counted - told, given - counted, given - begun - (alone - given)
        found.append((*parts, *beyond, whole - alone - (last - whole)))
        number += 1
    return found


if __name__ == "__main__":
    main()
