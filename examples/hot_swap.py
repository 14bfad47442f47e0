"""A new bundle takes over while a thread keeps asking; a damaged one changes nothing.

    python examples/hot_swap.py

Needs `mmkd-edge[ort]`.
"""

import shutil
import threading
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from mmkd_edge import EdgePredictor, MmkdError, example_bundle

answers: Counter[str] = Counter()
stop = threading.Event()


def keep_asking(predictor: EdgePredictor, windows: list) -> None:
    """Stand for a station that never pauses."""
    while not stop.is_set():
        for window in windows:
            answers[predictor.predict(window).status] += 1


with TemporaryDirectory() as folder, EdgePredictor.open(example_bundle()) as predictor:
    windows = list(predictor.bundle.golden(predictor.entry.name).windows[:8])
    thread = threading.Thread(target=keep_asking, args=(predictor, windows))
    thread.start()

    newer = Path(folder, "newer.edge")  # stands for what the training server sent
    shutil.copy(example_bundle(), newer)
    info = predictor.swap(newer)  # verified, opened, warmed up, tested; then it answers
    print(f"{Path(info.bundle).name} answers")

    damaged = Path(folder, "damaged.edge")
    damaged.write_bytes(newer.read_bytes()[:-1000])
    try:
        predictor.swap(damaged)
    except MmkdError as error:
        print(f"{type(error).__name__}: {Path(predictor.info().bundle).name} still answers")

    print(f"{Path(predictor.rollback().bundle).name} answers again")
    stop.set()
    thread.join()
    print(f"no call failed: {dict(answers).keys()}")
