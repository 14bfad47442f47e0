"""The one table of sources: what each is called, how it is opened, and which extra it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.links.place import check_no_password
from mmkd_station.links.prefixes import kind_and_place
from mmkd_station.sources.base import ReplayedRecording, Source, Wanted
from mmkd_station.sources.camera import CameraSource, FilmSource
from mmkd_station.sources.files import FileSource, StdinSource
from mmkd_station.sources.modbus import ModbusSource
from mmkd_station.sources.mqtt import MqttSource
from mmkd_station.sources.opcua import OpcUaSource
from mmkd_station.sources.replay import RecordingsSource
from mmkd_station.sources.sound import MicrophoneSource, WavSource

LoadRecordings = Callable[[str], Sequence[ReplayedRecording]]


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a source is opened with.

    Attributes:
        text: all of it.
        place: the text behind the prefix.
        wanted: what is asked of it.
        load_recordings: gives the recordings of a dataset.
        pause_s: between two recordings, longer than a window.
    """

    text: str
    place: str
    wanted: Wanted
    load_recordings: LoadRecordings
    pause_s: float


class SourceKind(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        form: how it is written.
        about: what it gives, for the help.
        open: opens it; may raise UsageError and UnavailableError.
        grows: whether `--follow` means something to it.
        frames: whether it gives frames of video.
    """

    form: str
    about: str
    open: Callable[[Opening], Source]
    grows: bool = False
    frames: bool = False


SOURCES: dict[str, SourceKind] = {
    "csv:": SourceKind(
        form="csv:FILE",
        about="lines of a file, CSV or JSON; --follow waits for more",
        open=lambda asked: FileSource(Path(asked.place), asked.wanted),
        grows=True,
    ),
    "stdin": SourceKind(
        form="stdin", about="lines of the standard input, CSV or JSON", open=lambda asked: StdinSource(asked.wanted)
    ),
    "mqtt://": SourceKind(
        form="mqtt://HOST/TOPIC", about="messages of JSON", open=lambda asked: MqttSource(asked.text, asked.wanted)
    ),
    "mqtts://": SourceKind(
        form="mqtts://HOST/TOPIC", about="the same by TLS", open=lambda asked: MqttSource(asked.text, asked.wanted)
    ),
    "opcua://": SourceKind(
        form="opcua://HOST", about="nodes, read in turn", open=lambda asked: OpcUaSource(asked.text, asked.wanted)
    ),
    "modbus://": SourceKind(
        form="modbus://HOST", about="registers, read in turn", open=lambda asked: ModbusSource(asked.text, asked.wanted)
    ),
    "wav:": SourceKind(
        form="wav:FILE", about="a sound file", open=lambda asked: WavSource(Path(asked.place), asked.wanted)
    ),
    "mic": SourceKind(
        form="mic",
        about="the default microphone, by arecord",
        open=lambda asked: MicrophoneSource(asked.text, "", asked.wanted),
    ),
    "mic:": SourceKind(
        form="mic:DEVICE",
        about="one that arecord -L names",
        open=lambda asked: MicrophoneSource(asked.text, asked.place, asked.wanted),
    ),
    "cam:": SourceKind(
        form="cam:N",
        about="a camera's number, device file, address or GStreamer pipeline",
        open=lambda asked: CameraSource(asked.text, asked.place, asked.wanted),
        frames=True,
    ),
    "video:": SourceKind(
        form="video:FILE",
        about="a film",
        open=lambda asked: FilmSource(asked.text, asked.place, asked.wanted),
        frames=True,
    ),
    "recordings:": SourceKind(
        form="recordings:DATASET",
        about="the recordings of a dataset, in their order",
        open=lambda asked: RecordingsSource(asked.load_recordings(asked.place), asked.wanted, pause_s=asked.pause_s),
    ),
}
"""By prefix; the text behind it is the place."""


def grows(text: str) -> bool:
    """Whether `--follow` means something to the source that a text names. Raises UsageError where there is none."""
    return kind_and_place(text, SOURCES, option="--source")[0].grows


def open_source(text: str, wanted: Wanted, *, load_recordings: LoadRecordings, pause_s: float) -> Source:
    """Opens the source that a text names.

    Args:
        text: a prefix of the table and what follows it.
        wanted: what is asked of it.
        load_recordings: gives the recordings of a dataset.
        pause_s: between two recordings, longer than a window.

    Raises:
        UsageError: there is no such source, its place does not exist, or it does not give what is wanted.
        UnavailableError: a library is missing.
    """
    kind, place = kind_and_place(text, SOURCES, option="--source")
    if kind.frames and "://" in place:
        # The name of the file of credentials may have an @.
        check_no_password(re.split("[?&]credentials=", place)[0], form=f"{text.partition('://')[0]}://")
    if kind.frames != (wanted.frame is not None):
        forms = ", ".join(one.form for one in SOURCES.values() if one.frames != kind.frames)
        gives, takes = ("video", "samples") if kind.frames else ("samples", "video")
        raise UsageError(f"--source {text}: expected {takes} for this student, got a source of {gives}; use {forms}")
    if wanted.follow and not kind.grows:
        forms = ", ".join(one.form for one in SOURCES.values() if one.grows)
        raise UsageError(f"--follow: expected {forms}, a file that grows, got --source {text}; leave it out")
    return kind.open(Opening(text=text, place=place, wanted=wanted, load_recordings=load_recordings, pause_s=pause_s))
