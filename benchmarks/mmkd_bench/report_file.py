"""The report of a run as a file: `BenchReport` to JSON and back, for `run`, `compare` and `page`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError
from mmkd_report.schema.bench import FORMAT_VERSION, BenchReport


class _Version(msgspec.Struct, frozen=True):
    format_version: int


def encode_report(report: BenchReport) -> bytes:
    """The report as indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(data: bytes, *, where: str) -> BenchReport:
    """The report in a document.

    Raises:
        UsageError: not a report of this version; the message has the path of the fault.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: expected a benchmark report, cannot read it: {error}") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{where}: expected a report of format_version {FORMAT_VERSION}, got {version}; "
            "read it with the mmkd-bench that wrote it"
        )
    try:
        return msgspec.json.decode(data, type=BenchReport)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: not a valid benchmark report: {error}") from error


def read_report(path: Path) -> BenchReport:
    """The report in a file.

    Raises:
        UsageError: no such file, or it holds no report of this version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a report of 'mmkd-bench run --json', cannot open it: {reason}") from error
    return decode_report(data, where=str(path))


def write_report(path: Path, report: BenchReport) -> None:
    """Write the report as JSON, all or nothing.

    Raises:
        UsageError: the file cannot be written.
    """
    write_file(path, encode_report(report))
