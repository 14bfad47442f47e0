"""`wav:FILE`: audio, or any signal stored as audio, read by soundfile; `mic`: a microphone, read by arecord."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UnavailableError, UsageError, first_line, os_reason
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Source, SourceRequest, paced, reconnect

_TOGETHER_S = 0.1
# After so long without samples the device is lost.
_SILENT_S = 5.0
_LOOKS_S = 0.2


class WavSource(Source):
    """A sound file (WAV, FLAC, OGG); channels are called `0`, `1` ... or like the student's, in order."""

    live = False

    def __init__(self, text: str, place: str, request: SourceRequest) -> None:
        path = Path(place)
        self._file = _opened(path)
        self._request = request
        channels = self._file.channels
        if self._file.samplerate != request.rate_hz:
            rate_hz = self._file.samplerate
            self._file.close()
            raise UsageError(f"{path}: expected sound at {request.rate_hz:g} Hz, got {rate_hz} Hz; resample the file")
        names = request.columns.names
        self._places = _places_of(request)
        if max(self._places) >= channels:
            self._file.close()
            raise UsageError(
                f"{path}: expected {len(names)} channels, got {channels}; name them with --map CHANNEL=NUMBER"
            )

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield the samples, from -1 to 1 before --map, with times from 0."""
        yield from paced(self._pieces(), self._request, intake.stop)

    def _pieces(self) -> Iterator[Delivery]:
        rate_hz, given = self._request.rate_hz, 0
        for block in self._file.blocks(blocksize=max(1, round(_TOGETHER_S * rate_hz)), dtype="float32", always_2d=True):
            times = (given + np.arange(len(block))) / rate_hz
            given += len(block)
            rows = self._request.columns.scaled(block[:, self._places])
            yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MicrophoneSource(Source):
    """Live audio from ALSA's arecord, at the student's rate, from a device of `arecord -L` or the default."""

    live = True

    def __init__(self, text: str, place: str, request: SourceRequest) -> None:
        if request.rate_hz != round(request.rate_hz):
            raise UsageError(f"--source {text}: expected a student of whole Hz, got {request.rate_hz:g} Hz; use stdin")
        self._request = request
        self._places = _places_of(request)
        self._channels = max(self._places) + 1
        self._device = place
        try:
            recorder = self._record()
        except FileNotFoundError as error:
            raise UnavailableError(
                f"--source {text} needs arecord, which this machine lacks; run: apt install alsa-utils"
            ) from error
        try:
            if not len(recorder.block(_SILENT_S)):
                raise ConnectionError(f"nothing within {_SILENT_S:g} s")
        except OSError as error:
            raise UnavailableError(
                f"--source {text}: expected a microphone, got: {error}; plug one in, or name one of: arecord -L"
            ) from error
        finally:
            recorder.close()

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        """Yield 0.1 s at a time, from -1 to 1 before --map, without times."""
        name = self._device or "the default microphone"
        yield from reconnect(self._record, lambda recorder: self._pieces(recorder, intake), name=name, intake=intake)

    def _record(self) -> _Recorder:
        return _Recorder(self._device, rate_hz=round(self._request.rate_hz), channels=self._channels)

    def _pieces(self, recorder: _Recorder, intake: Intake) -> Iterator[Delivery]:
        came_s = time.monotonic()
        while not intake.stop.is_set():
            block = recorder.block(_LOOKS_S)
            arrived_s = time.monotonic()
            for complaint in recorder.complaints():
                intake.garbage(f"the recorder says: {complaint}")
            if len(block):
                came_s = arrived_s
                sound = block[:, self._places] / np.float32(32768)
                yield Delivery(rows=self._request.columns.scaled(sound), times=None, arrived_s=arrived_s)
            elif arrived_s - came_s > _SILENT_S:
                raise ConnectionError(f"the recorder gives nothing for {_SILENT_S:g} s")


class _Recorder:
    """A process of arecord, and its complaints about lost samples."""

    def __init__(self, device: str, *, rate_hz: int, channels: int) -> None:
        options = ["-t", "raw", "-f", "S16_LE", "-r", str(rate_hz), "-c", str(channels)]
        options += ["-D", device] if device else []
        self._process = subprocess.Popen(
            ["arecord", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"LC_ALL": "C"},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._sound, self._words = self._process.stdout.fileno(), self._process.stderr.fileno()
        self._sample_bytes = 2 * channels
        self._most_bytes = max(1, round(_TOGETHER_S * rate_hz)) * self._sample_bytes
        self._channels = channels
        self._rest = self._text = b""

    def block(self, timeout_s: float) -> NDArray[np.int16]:
        """Return samples (n, C), none if none came in time. Raises ConnectionError if the recorder has ended."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            ready, _, _ = select.select([self._sound, self._words], [], [], left_s)
            if self._words in ready:
                self._text += os.read(self._words, 4096)
                if b"rate is not accurate" in self._text:
                    raise ConnectionError(_last_line(self._text, of=b"rate is not accurate"))
            if self._sound in ready:
                data = os.read(self._sound, self._most_bytes)
                if not data:
                    self._process.wait(_SILENT_S)
                    self._text += os.read(self._words, 4096)
                    raise ConnectionError(_last_line(self._text) or "the recorder ended")
                data = self._rest + data
                whole = len(data) // self._sample_bytes * self._sample_bytes
                self._rest = data[whole:]
                return np.frombuffer(data[:whole], dtype="<i2").reshape(-1, self._channels)
        return np.empty((0, self._channels), dtype=np.int16)

    def complaints(self) -> list[str]:
        """Return the complaints since the last call."""
        *lines, self._text = self._text.split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip()) and "Recording" not in text]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def _last_line(text: bytes, *, of: bytes = b"") -> str:
    lines = [line.strip().decode(errors="replace") for line in text.splitlines() if of in line and line.strip()]
    return lines[-1] if lines else ""


def _places_of(request: SourceRequest) -> list[int]:
    """Return the recording's channel of each student's channel: the number in --map, else its position."""
    return [int(name) if name.isdecimal() else place for place, name in enumerate(request.columns.names)]


def _opened(path: Path) -> Any:
    require_modules(("soundfile",), by="wav:FILE", extra="import")
    import soundfile

    try:
        path.open("rb").close()
        return soundfile.SoundFile(str(path))
    except OSError as error:
        raise UsageError(f"{path}: expected a sound file: {os_reason(error)}") from error
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path}: expected a sound file, got {first_line(error)}; convert it to WAV") from error
