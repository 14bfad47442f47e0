"""Sources and sinks that are files or standard input and output."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from mmkd_edge.errors import UsageError, first_line, os_reason
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import csv_text
from mmkd_station.intake import Delivery, Intake
from mmkd_station.protocols.base import GoneError, Sink, Source, SourceRequest, paced_source
from mmkd_station.protocols.samples import BLOCK_BYTES, LOOK_S, MAX_LINE_BYTES, LineReader, stdin_blocks
from mmkd_station.records import Record, ResultRecord, record_line

# Samples per delivery: a tenth of a second if the pace matters.
_TOGETHER_S, _MAX_TOGETHER = 0.1, 4096
_MAX_LINES = 256
_BINARY, _NO_WAITING = getattr(os, "O_BINARY", 0), getattr(os, "O_NONBLOCK", 0)
_CSV_FIELDS = tuple(name for name in ResultRecord.__struct_fields__ if name not in ("labels", "label_set"))


def file_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a file of CSV or JSON lines; with `follow` also appended lines and replaced files."""
    lines = _FileLines(Path(place), request)
    return Source(deliveries=lines.deliveries, live=request.follow, close=lines.close)


class _FileLines:
    def __init__(self, path: Path, request: SourceRequest) -> None:
        self._path = path
        self._request = request
        self._file = _open_file(path)

    def deliveries(self, intake: Intake) -> Iterator[Delivery]:
        reader = LineReader(str(self._path), self._request)
        deliveries = reader.deliveries(self._chunks(reader, intake), intake)
        yield from deliveries if self._request.follow else paced_source(deliveries, self._request).deliveries(intake)

    def _chunks(self, reader: LineReader, intake: Intake) -> Iterator[list[str]]:
        rest = b""
        most = _MAX_LINES if self._request.replay_speed is None else max(1, round(self._request.rate_hz / 20))
        while not intake.stop.is_set():
            block = self._file.read(BLOCK_BYTES)
            if block:
                lines, rest = _split(rest + block, intake)
                for start in range(0, len(lines), most):
                    yield lines[start : start + most]
            elif not self._request.follow:
                if rest:
                    yield [rest.decode(errors="replace")]
                return
            elif self._was_replaced():
                rest = b""
                reader.restart()
            else:
                intake.stop.wait(LOOK_S)

    def _was_replaced(self) -> bool:
        """Reopen the file if it was replaced or truncated."""
        try:
            named, held = self._path.stat(), os.fstat(self._file.fileno())
            if os.path.samestat(named, held) and named.st_size >= self._file.tell():
                return False
            successor = self._path.open("rb", buffering=0)
        except OSError:  # away for now; it may come back
            return False
        self._file.close()
        self._file = successor
        return True

    def close(self) -> None:
        self._file.close()


def stdin_source(text: str, place: str, request: SourceRequest) -> Source:
    """Read CSV or JSON lines from the standard input."""

    def lines(intake: Intake) -> Iterator[list[str]]:
        rest = b""
        for block in stdin_blocks(intake):
            whole, rest = _split(rest + block, intake)
            if whole:
                yield whole
        if rest:
            yield [rest.decode(errors="replace")]

    return Source(deliveries=lambda i: LineReader("stdin", request).deliveries(lines(i), i), live=True)


def _open_file(path: Path) -> BinaryIO:
    expected = f"{path}: expected a file of samples, CSV or JSON lines"
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAITING)  # a pipe is refused
    except FileNotFoundError as error:
        raise UsageError(f"{expected}, found no such file; check the path") from error
    except OSError as error:
        raise UsageError(f"{expected}, cannot open it: {os_reason(error)}") from error
    if not path.is_file():
        os.close(descriptor)
        kind = "a directory" if path.is_dir() else "something that is not a regular file"
        raise UsageError(f"{expected}, got {kind}; name the file itself")
    return os.fdopen(descriptor, "rb", buffering=0)


def _split(data: bytes, intake: Intake) -> tuple[list[str], bytes]:
    *lines, rest = data.split(b"\n")
    if len(rest) > MAX_LINE_BYTES:
        intake.garbage(f"expected lines of at most {MAX_LINE_BYTES:,} bytes, got a longer one")
        rest = b""
    return [line.decode(errors="replace") for line in lines], rest


def recordings_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a dataset's recordings, with times from 0 and pauses that no window spans."""

    def pieces() -> Iterator[Delivery]:
        rate_hz, start_s, together = request.rate_hz, 0.0, _MAX_TOGETHER
        if request.replay_speed is not None:
            together = max(1, min(_MAX_TOGETHER, round(_TOGETHER_S * rate_hz)))
        for recording in recordings:
            times = start_s + np.arange(len(recording.rows)) / rate_hz
            for start in range(0, len(times), together):
                piece = slice(start, start + together)
                yield Delivery(rows=recording.rows[piece], times=times[piece], arrived_s=time.monotonic())
            start_s += len(times) / rate_hz + 2 * request.window_s

    recordings = request.load_recordings(place)
    return paced_source(pieces(), request)


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


class StdoutSink(Sink):
    """JSON lines on the standard output."""

    def __init__(self, text: str, place: str) -> None:
        pass

    def write(self, records: Sequence[Record]) -> None:
        """Write and flush. Raises OSError, or GoneError if nobody reads any more."""
        try:
            sys.stdout.write(b"".join(map(record_line, records)).decode())
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise GoneError(str(error)) from error


class AppendSink(Sink):
    """Appends `form(records, is_empty)` to a file, created again if it was moved away."""

    def __init__(self, text: str, place: str, form: Callable[[Sequence[Record], bool], bytes]) -> None:
        self._path = Path(place)
        self._form = form
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise UsageError(f"{place}: cannot write it: {os_reason(error)}") from error

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)

    def write(self, records: Sequence[Record]) -> None:
        """Append all records or none. Raises OSError."""
        is_in_place = False
        with contextlib.suppress(OSError):
            is_in_place = self._descriptor >= 0 and os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        if not is_in_place:
            self.close()
            self._descriptor = self._open()
        before = os.fstat(self._descriptor).st_size
        data = self._form(records, before == 0)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            if written:  # half a line would spoil the next one
                os.ftruncate(self._descriptor, before)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def json_lines(records: Sequence[Record], is_first: bool) -> bytes:
    """Return JSON lines."""
    return b"".join(map(record_line, records))


def csv_lines(records: Sequence[Record], is_first: bool) -> bytes:
    """Return results as CSV lines, with a header first; leave out alarms and states."""
    rows: list[Sequence[object]] = [_CSV_FIELDS] if is_first else []
    for record in records:
        if isinstance(record, ResultRecord):
            fields = msgspec.structs.asdict(record)
            fields["probabilities"] = " ".join(f"{probability:.6g}" for probability in record.probabilities)
            rows.append([fields[name] for name in _CSV_FIELDS])
    return csv_text(rows).encode()
