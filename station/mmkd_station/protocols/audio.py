"""`wav:FILE`: a sound file, read by soundfile; `mic`: a microphone, read by arecord."""

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
from mmkd_station.protocols.base import Source, SourceRequest, live_source, paced_source

_TOGETHER_S = 0.1
# After so long without samples the device is lost.
_SILENT_S = 5.0
_LOOKS_S = 0.2


def wav_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a sound file (WAV, FLAC, OGG): values from -1 to 1 before --map, times from 0.

    Channels are called `0`, `1` ... or like the student's, in order.
    """
    path = Path(place)
    file = _open_sound(path)
    problem = ""
    if file.samplerate != request.rate_hz:
        problem = f"expected sound at {request.rate_hz:g} Hz, got {file.samplerate} Hz; resample the file"
    elif max(_channel_places(request)) >= file.channels:
        count = len(request.columns.names)
        problem = f"expected {count} channels, got {file.channels}; name them with --map CHANNEL=NUMBER"
    if problem:
        file.close()
        raise UsageError(f"{path}: {problem}")
    return paced_source(_blocks(file, request), request, close=file.close)


def _blocks(file: Any, request: SourceRequest) -> Iterator[Delivery]:
    count = 0
    block_size = max(1, round(_TOGETHER_S * request.rate_hz))
    for block in file.blocks(blocksize=block_size, dtype="float32", always_2d=True):
        times = (count + np.arange(len(block))) / request.rate_hz
        count += len(block)
        rows = request.columns.scaled(block[:, _channel_places(request)])
        yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())


def microphone_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open arecord at the student's rate, on a device of `arecord -L` or the default.

    Values are from -1 to 1 before --map, without times.
    """
    if request.rate_hz != round(request.rate_hz):
        raise UsageError(f"--source {text}: expected a student of whole Hz, got {request.rate_hz:g} Hz; use stdin")

    def record() -> _Recorder:
        return _Recorder(place, rate_hz=round(request.rate_hz), channels=max(_channel_places(request)) + 1)

    try:
        recorder = record()
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

    def read(recorder: _Recorder, intake: Intake) -> Iterator[Delivery]:
        came_s = time.monotonic()
        while not intake.stop.is_set():
            block = recorder.block(_LOOKS_S)
            arrived_s = time.monotonic()
            for complaint in recorder.complaints():
                intake.garbage(f"arecord: {complaint}")
            if len(block):
                came_s = arrived_s
                sound = block[:, _channel_places(request)] / np.float32(32768)
                yield Delivery(rows=request.columns.scaled(sound), times=None, arrived_s=arrived_s)
            elif arrived_s - came_s > _SILENT_S:
                raise ConnectionError(f"the recorder gives nothing for {_SILENT_S:g} s")

    return live_source(record, read, name=place or "the default microphone")


class _Recorder:
    """An arecord process, and its complaints about lost samples."""

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
        """Return samples (n, C), maybe none. Raises ConnectionError if the recorder has ended."""
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


def _channel_places(request: SourceRequest) -> list[int]:
    return [int(name) if name.isdecimal() else place for place, name in enumerate(request.columns.names)]


def _open_sound(path: Path) -> Any:
    require_modules(("soundfile",), by="wav:FILE", extra="import")
    import soundfile

    try:
        path.open("rb").close()
        return soundfile.SoundFile(str(path))
    except OSError as error:
        raise UsageError(f"{path}: expected a sound file: {os_reason(error)}") from error
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path}: expected a sound file, got {first_line(error)}; convert it to WAV") from error
