"""Audio of sound files, and by ffmpeg of video files: channels count from 1, full scale is 1."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd_edge.errors import DatasetError, UnavailableError
from mmkd_models.data.importing.readers.table import BLOCK_ROWS, RowBlock, reading, row_block

# libsndfile's note on a WAV file that ends early.
_SHORT_DATA = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)


def sound_facts(file: Path) -> tuple[tuple[str, ...], float]:
    """Return channels and rate in Hz. Raise DatasetError if the file is no sound."""
    soundfile = _soundfile()
    with reading(file, "a sound file"):
        facts = soundfile.info(str(file), verbose=True)
    cut_off = _SHORT_DATA.search(facts.extra_info)
    if cut_off is not None:
        raise DatasetError(
            f"{file}: expected {cut_off[1]} bytes of sound as its header says, got {cut_off[2]}; copy it again"
        )
    if not facts.frames:
        raise DatasetError(f"{file}: expected sound, got a file without samples; remove it, or copy it again")
    return tuple(str(number + 1) for number in range(facts.channels)), float(facts.samplerate)


def sound_blocks(file: Path, columns: Sequence[str], *, original: Path | None = None) -> Iterator[RowBlock]:
    """Yield channels in blocks; messages name `original` if `file` is an extracted copy."""
    soundfile = _soundfile()
    named = original or file
    expected, first = soundfile.info(str(file)).frames, 0
    with reading(named, "sound"):
        for values in soundfile.blocks(str(file), blocksize=BLOCK_ROWS, dtype="float32", always_2d=True):
            yield row_block(named, {name: values[:, int(name) - 1] for name in columns}, first, called="sample")
            first += len(values)
    if first < expected:
        raise DatasetError(f"{named}: expected {expected} samples as its header says, got {first}; copy it again")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UnavailableError(
            "sound files need soundfile, which this Python lacks; run: pip install 'mmkd-edge[audio]'"
        ) from error
    return soundfile


def video_sound_facts(file: Path) -> tuple[tuple[str, ...], float]:
    """Return channels and rate in Hz of the first sound track; errors as `_extract_sound`."""
    with _extract_sound(file, "-t", "1") as sound:
        return sound_facts(sound)


def video_sound_blocks(file: Path, columns: Sequence[str]) -> Iterator[RowBlock]:
    """Yield channels of the first sound track in blocks; errors as `_extract_sound`."""
    with _extract_sound(file) as sound:
        yield from sound_blocks(sound, columns, original=file)


@contextmanager
def _extract_sound(file: Path, *options: str) -> Iterator[Path]:
    """Yield a temporary 16-bit WAV file of the first sound track. Raise UnavailableError without ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnavailableError(
            f"{file}: the sound of a video file needs ffmpeg, which is not installed here; install it, or take the"
            f" sound out elsewhere (ffmpeg -i {file.name} -vn -c:a pcm_s16le {file.stem}.wav) and name that in 'files'"
        )
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / f"{file.stem}.wav"
        command = [program, "-nostdin", "-v", "error", "-i", str(file), *options, "-vn", "-map", "0:a:0"]
        command += ["-c:a", "pcm_s16le", str(sound)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not sound.is_file():
            reason = next((line for line in done.stderr.splitlines() if line.strip()), "nothing")
            raise DatasetError(
                f"{file}: expected video with sound, got from ffmpeg: {reason.strip()};"
                " give the sound in a file of its own"
            )
        yield sound
