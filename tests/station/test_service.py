"""Bundles that take over while stations run: when that is tried, and what is said of it."""

import contextlib
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from mmkd_station.service import Service
from tests.station.rig import until


class Swapping:
    """A predictor whose swaps last until they are let go, and end as they are told to."""

    def __init__(self, *ends):
        self.began: list[Path] = []
        self.let_go = threading.Semaphore(0)
        self._ends = iter(ends)

    def swap(self, path):
        self.began.append(path)
        self.let_go.acquire(timeout=20)
        if (error := next(self._ends)) is not None:
            raise error
        return SimpleNamespace(model_id="acc", bundle_sha256="0" * 64)

    def health(self):
        return SimpleNamespace(returned="")


def idle(predictor):
    """A station that does nothing, and keeps what it is told to say."""
    said = []
    return SimpleNamespace(
        predictor=predictor,
        said=said,
        is_over=False,
        report=lambda state, reason: said.append((state, reason)),
        is_well=lambda within_s: True,
        facts=lambda: SimpleNamespace(results={}),
        **dict.fromkeys(("check", "close", "start", "stop"), lambda **_: None),
    )


@contextlib.contextmanager
def running(predictor, station, path):
    """Runs a service of one station; gives what has its bundle opened again."""
    stop, reload = threading.Event(), threading.Event()
    service = Service(stations=[station], outlets=[], predictors=[(path, predictor)])
    thread = threading.Thread(target=run, args=(service, stop, reload), daemon=True)
    thread.start()
    try:
        yield reload
    finally:
        stop.set()
        thread.join(20)


def run(service, stop, reload):
    with contextlib.suppress(TypeError):  # the facts at the end take a real station
        service.run(stop=stop, reload=reload)


def test_a_reload_during_a_swap_waits_for_its_end(tmp_path):
    predictor = Swapping(None, None)
    station = idle(predictor)
    with running(predictor, station, tmp_path / "a.edge") as reload:
        reload.set()
        until(lambda: len(predictor.began) == 1)
        reload.set()
        time.sleep(0.6)  # two looks of the service
        assert len(predictor.began) == 1
        predictor.let_go.release(2)
        until(lambda: len(station.said) == 2)
    assert station.said == [("swapped", "acc, 000000000000")] * 2


def test_whatever_a_swap_raises_is_said_and_the_next_one_is_tried(tmp_path):
    predictor = Swapping(ValueError("filedescriptor out of range in select()"), None)
    station = idle(predictor)
    predictor.let_go.release(2)
    with running(predictor, station, tmp_path / "a.edge") as reload:
        for count in (1, 2):
            reload.set()
            until(lambda count=count: len(station.said) == count)
    assert station.said == [("refused", "filedescriptor out of range in select()"), ("swapped", "acc, 000000000000")]
