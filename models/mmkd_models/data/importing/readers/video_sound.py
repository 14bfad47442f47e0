"""The sound in a video file, taken out by the user's own ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmkd_edge.errors import DatasetError, UnavailableError

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
