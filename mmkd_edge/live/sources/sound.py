"""`wav:FILE`: sound, or any signal that was stored as sound, read by soundfile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge.bundle.files import fault_of
from mmkd_edge.errors import UnavailableError, UsageError, first_line
from mmkd_edge.live.intake import Delivery, Listener
from mmkd_edge.live.sources.base import Wanted
from mmkd_edge.live.sources.replay import paced

_TOGETHER_S = 0.1


class WavSource:
    """A sound file from its beginning to its end; a channel is called `0`, `1` ... or like the student's, in order.

    Args:
        path: of a file that soundfile reads: WAV, FLAC, OGG.
        wanted: the rate, and which channels.

    Raises:
        UsageError: it cannot be read, or has another rate or too few channels.
        UnavailableError: soundfile is not installed.
    """

    live = False

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._file = _opened(path)
        self._wanted = wanted
        channels = self._file.channels
        if self._file.samplerate != wanted.rate_hz:
            rate_hz = self._file.samplerate
            self._file.close()
            raise UsageError(f"{path}: expected sound at {wanted.rate_hz:g} Hz, got {rate_hz} Hz; resample the file")
        names = wanted.columns.names
        self._places = [int(name) if name.isdigit() else place for place, name in enumerate(names)]
        if max(self._places) >= channels:
            self._file.close()
            raise UsageError(
                f"{path}: expected {len(names)} channels, got {channels}; name them with --map CHANNEL=NUMBER"
            )

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples, from -1 to 1 before --map, with times that begin at 0."""
        yield from paced(self._pieces(), self._wanted, listener.stop)

    def _pieces(self) -> Iterator[Delivery]:
        rate_hz, given = self._wanted.rate_hz, 0
        for block in self._file.blocks(blocksize=max(1, round(_TOGETHER_S * rate_hz)), dtype="float32", always_2d=True):
            times = (given + np.arange(len(block))) / rate_hz
            given += len(block)
            rows = self._wanted.columns.scaled(block[:, self._places])
            yield Delivery(rows=rows, times=times, arrived_s=time.monotonic())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened(path: Path) -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UnavailableError(
            "wav:FILE needs soundfile, which this Python lacks; run: pip install 'mmkd-edge[import]'"
        ) from error
    try:
        path.open("rb").close()
        return soundfile.SoundFile(str(path))
    except OSError as error:
        raise UsageError(f"{path}: expected a sound file: {fault_of(error)}") from error
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path}: expected a sound file, got {first_line(error)}; convert it to WAV") from error
