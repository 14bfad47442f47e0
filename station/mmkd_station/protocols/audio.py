"""`wav:FILE`: a sound file, read by soundfile; `pcm`: sound from the standard input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.cli.run import require_modules
from mmkd_edge.errors import UsageError, first_line, os_reason
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import Source, SourceRequest, paced_source
from mmkd_station.protocols.samples import stdin_blocks

_TOGETHER_S = 0.1


def wav_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open WAV, FLAC or OGG: values from -1 to 1 before --map, times from 0, channels `0`, `1` ... or the student's."""
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


def pcm_source(text: str, place: str, request: SourceRequest) -> Source:
    """Read interleaved signed 16-bit little-endian samples at the student's rate: -1 to 1 before --map, no times."""
    places = _channel_places(request)
    channels = max(places) + 1

    def deliveries(intake: Intake) -> Iterator[Delivery]:
        rest = b""
        for block in stdin_blocks(intake):
            data = rest + block
            whole = len(data) - len(data) % (2 * channels)
            rest = data[whole:]
            if whole:
                sound = np.frombuffer(data[:whole], dtype="<i2").reshape(-1, channels)[:, places] / np.float32(32768)
                yield Delivery(rows=request.columns.scaled(sound), times=None, arrived_s=time.monotonic())

    return Source(deliveries=deliveries, live=True)


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
