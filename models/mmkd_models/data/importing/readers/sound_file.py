"""Sound files in blocks: samples at the rate that the file says, channels numbered from 1."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd_edge.errors import DatasetError, UnavailableError, first_line
from mmkd_models.data.importing.readers.table import RowBlock

_BLOCK_SAMPLES = 1 << 18
# What libsndfile notes of a WAV file that ends early, and then reads what is there.
_SHORT_DATA = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)


def sound_facts(file: Path) -> tuple[tuple[str, ...], float]:
    """Return the names of the channels and the rate in Hz. Raise DatasetError if the file is no sound."""
    soundfile = _soundfile()
    try:
        facts = soundfile.info(str(file), verbose=True)
    except (RuntimeError, OSError) as error:
        raise DatasetError(f"{file}: expected a sound file, got {first_line(error)}; copy it again") from error
    cut_off = _SHORT_DATA.search(facts.extra_info)
    if cut_off is not None:
        raise DatasetError(
            f"{file}: expected {cut_off[1]} bytes of sound as its header says, got {cut_off[2]}; copy it again"
        )
    if not facts.frames:
        raise DatasetError(f"{file}: expected sound, got a file without samples; remove it, or copy it again")
    return tuple(str(number + 1) for number in range(facts.channels)), float(facts.samplerate)


def sound_blocks(file: Path, columns: Sequence[str], *, called: Path | None = None) -> Iterator[RowBlock]:
    """Yield these channels in blocks, full scale is 1.

    Args:
        called: the name in messages, where the file is a copy of what lies in another.

    Raise DatasetError if the file ends before its header says.
    """
    import polars as pl

    soundfile = _soundfile()
    called = file if called is None else called
    expected, first = soundfile.info(str(file)).frames, 0
    try:
        for values in soundfile.blocks(str(file), blocksize=_BLOCK_SAMPLES, dtype="float32", always_2d=True):
            frame = pl.DataFrame({name: values[:, int(name) - 1] for name in columns})
            start = first
            yield RowBlock(file=called, frame=frame, place=lambda row, start=start: f"{called}: sample {start + row}")  # type: ignore[misc]
            first += len(values)
    except (RuntimeError, OSError) as error:
        raise DatasetError(f"{called}: expected sound, got {first_line(error)}; copy it again") from error
    if first < expected:
        raise DatasetError(f"{called}: expected {expected} samples as its header says, got {first}; copy it again")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UnavailableError(
            "sound files need soundfile, which this Python lacks; run: pip install 'mmkd-edge[audio]'"
        ) from error
    return soundfile


_HEAD_S = "1"


@contextmanager
def sound_of(file: Path, *, head_only: bool = False) -> Iterator[Path]:
    """Yield a WAV file with the first sound of a video file, 16 bits, all channels, its own rate; gone afterwards.

    Args:
        head_only: the first second alone, to see what there is.

    Raises:
        UnavailableError: there is no ffmpeg; the message says how to take the sound out elsewhere.
        DatasetError: ffmpeg finds no sound in the file.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnavailableError(
            f"{file}: the sound of a video file needs ffmpeg, which is not installed here; install it, or take the"
            f" sound out elsewhere (ffmpeg -i {file.name} -vn -c:a pcm_s16le {file.stem}.wav) and name that in 'files'"
        )
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / f"{file.stem}.wav"
        head = ["-t", _HEAD_S] if head_only else []
        command = [program, "-nostdin", "-v", "error", "-i", str(file), *head, "-vn", "-map", "0:a:0"]
        command += ["-c:a", "pcm_s16le", str(sound)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not sound.is_file():
            said = next((line for line in done.stderr.splitlines() if line.strip()), "nothing")
            raise DatasetError(
                f"{file}: expected video with sound, got from ffmpeg: {said.strip()};"
                " give the sound in a file of its own"
            )
        yield sound
