"""What the tests of sound and video share: six clips of two seconds, film and sound, with two words in each."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import soundfile

CLIPS_RECIPE = """version = 1
[[source]]
modality = "lips"
files = "{clip}.mp4"
height = 15
width = 20
[[source]]
modality = "voice"
kind = "audio"
files = "{clip}.wav"
channels = {mono = "1"}
[labels]
files = "words.csv"
label = "word"
time_unit = "s"
match = {clip = "clip"}
[windows]
length_s = 0.4
at = "intervals"
[split]
group = "clip"
"""
CLIPS = 6
FRAMES, FRAME_HZ = 50, 25.0
SOUND_HZ = 8000


def film(clip: int) -> np.ndarray:
    """50 gray frames (30, 40) on which a bright bar moves up and down in the middle; the seed moves it otherwise."""
    rng = np.random.default_rng(clip)
    frames = np.full((FRAMES, 30, 40), 60, dtype=np.uint8)
    for number, step in enumerate(np.cumsum(rng.integers(1, 10, size=FRAMES))):  # never to where it is
        top = 8 + step % 10
        frames[number, top : top + 4, 16:28] = 200
    return frames


def write_film(file: Path, frames: np.ndarray, rate_hz: float = FRAME_HZ) -> None:
    """Writes frames (N, H, W) or (N, H, W, 3) of blue, green and red as MPEG-4."""
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame)
    writer.release()


def with_steps(file: Path, steps: list[tuple[int, int]]) -> None:
    """Gives a film other times: (count, length) of frames that follow each other, in the file's units of time.

    The table of times of an MP4 is its `stts` box (ISO/IEC 14496-12, 8.6.1.2), here behind all data, so that nothing
    else moves where it grows.
    """
    content = bytearray(file.read_bytes().replace(b"edts", b"free"))  # else players stop where the film ended before
    assert content.rindex(b"moov") > content.rindex(b"mdat")
    at = content.index(b"stts") - 4
    old = int.from_bytes(content[at : at + 4], "big")
    table = b"stts" + bytes(4) + len(steps).to_bytes(4, "big")
    table += b"".join(count.to_bytes(4, "big") + length.to_bytes(4, "big") for count, length in steps)
    box = (len(table) + 4).to_bytes(4, "big") + table
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = content.index(name) - 4
        size = int.from_bytes(content[start : start + 4], "big") + len(box) - old
        content[start : start + 4] = size.to_bytes(4, "big")
    content[at : at + old] = box
    file.write_bytes(content)


def tone(clip: int, seconds: float = 2.0, rate_hz: int = SOUND_HZ) -> np.ndarray:
    """Noise (L,) between -0.5 and 0.5."""
    return np.random.default_rng(100 + clip).uniform(-0.5, 0.5, size=round(seconds * rate_hz))


def write_clips(folder: Path) -> None:
    """Writes the clips, their words and a recipe."""
    words = ["clip,start,end,word"]
    for clip in range(CLIPS):
        write_film(folder / f"c{clip}.mp4", film(clip))
        soundfile.write(folder / f"c{clip}.wav", tone(clip), SOUND_HZ, subtype="PCM_16")
        words += [f"c{clip},0.5,0.7,yes", f"c{clip},1.7,1.95,no"]
    (folder / "words.csv").write_text("\n".join(words) + "\n")
    (folder / "recipe.toml").write_text(CLIPS_RECIPE)
