"""What a service opens is closed again, whatever comes later."""

import pytest

from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError
from mmkd_edge.stream.stream import select_entry
from mmkd_edge.testing import fake_predictor
from mmkd_station import build
from mmkd_station.spec import RunSpec, StationSpec
from tests.edge.said import said


class Counted:
    """A source that counts how often it was closed."""

    live = False

    def __init__(self):
        self.closed = 0

    def deliveries(self, listener):
        yield from ()

    def close(self):
        self.closed += 1


@pytest.fixture
def opened(monkeypatch):
    """The sources of a service, of which the second cannot be opened where it is called `bad`."""
    found = []

    def open_source(text, *_, **__):
        if text == "bad":
            raise UsageError("no such source")
        found.append(Counted())
        return found[-1]

    monkeypatch.setattr(build, "open_source", open_source)
    return found


def spec_of(path, *sources):
    stations = [
        StationSpec(name=f"press {number}", bundle=str(path), source=source, backend="ort")
        for number, source in enumerate(sources, 1)
    ]
    return RunSpec(stations=tuple(stations), sinks=())


def test_a_sensor_of_an_unknown_modality_is_refused():
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=1.0, samples=2)
    told = "modality 'ecg' is unknown; expected one of 'acc'"
    assert said(UsageError, select_entry, fake_predictor([1.0], modality=acc, labels=("ok",)).entries, "ecg") == told


def test_sources_are_closed_where_the_next_station_cannot_be_opened_or_the_service_never_runs(bundle_path, opened):
    for sources, error in (("good", "bad"), UsageError), (("good",), OSError):
        spec = spec_of(bundle_path, *sources)
        with pytest.raises(error), build.open_service(spec, load_recordings=lambda *_: []):
            raise OSError("no port")
        assert opened.pop().closed == 1
