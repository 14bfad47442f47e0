"""Sound, videos and their recipes that are wrong, each with the whole message: where, what was expected, what came."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import MmkdError
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import read_recipe

pytest.importorskip("cv2")
soundfile = pytest.importorskip("soundfile")
sys.path.insert(0, str(Path(__file__).parent))

from film_cases import SOUND_HZ, tone, with_steps, write_clips  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What is done to sound clips, and what the import says; `DIR` stands for their folder.

    Attributes:
        recipe: texts of the recipe and what stands in their place.
    """

    says: str
    recipe: tuple[tuple[str, str], ...] = ()
    harm: Callable[[Path], object] = lambda folder: None


def cut_off(name: str, share: float) -> Callable[[Path], object]:
    """Leaves the beginning of a file."""

    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return harm


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    """Changes bytes of a file wherever they are."""

    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new))

    return harm


def sound(name: str, values: np.ndarray, rate_hz: int = SOUND_HZ) -> Callable[[Path], object]:
    return lambda folder: soundfile.write(folder / name, values, rate_hz, subtype="PCM_16")


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def steps(*table: tuple[int, int]) -> Callable[[Path], object]:
    return lambda folder: with_steps(folder / "c2.mp4", list(table))


WAV, FILM = "c2.wav", "c2.mp4"
CASES = [
    Broken(
        harm=written(WAV, b""),
        says="DIR/c2.wav: expected a sound file, got Error opening 'DIR/c2.wav': Format not recognised.; copy it again",
    ),
    Broken(
        harm=sound(WAV, np.zeros(0)),
        says="DIR/c2.wav: expected sound, got a file without samples; remove it, or copy it again",
    ),
    Broken(
        harm=cut_off(WAV, 0.5),
        says="DIR/c2.wav: expected 32000 bytes of sound as its header says, got 15978; copy it again",
    ),
    Broken(
        harm=sound(WAV, tone(2, rate_hz=16000), 16000),
        says="DIR/c2.wav: expected 8000 Hz as in DIR/c0.wav, got 16000; resample it, or make it a source of its own",
    ),
    Broken(
        recipe=(('channels = {mono = "1"}\n', ""),),
        harm=lambda folder: [
            sound(f"c{clip}.wav", np.stack([tone(clip), tone(clip + 9)], 1))(folder) for clip in (0, 1, 3, 4, 5)
        ],
        says="DIR/c2.wav: expected column '2' as in DIR/c0.wav, got '1'; correct the name in the recipe, or the file",
    ),
    Broken(
        harm=cut_off(FILM, 0.6),
        says="DIR/c2.mp4: expected video that OpenCV can decode, got another format or a damaged file; "
        "copy it again, or encode it anew (ffmpeg -i c2.mp4 -c:v libx264 c2-new.mp4)",
    ),
    Broken(
        harm=lambda folder: (folder / FILM).write_bytes(headless(folder / FILM)),
        says="DIR/c2.mp4: expected 50 frames as its container says, got 26; copy it again",
    ),
    Broken(
        harm=steps((50, 1024)),
        says="DIR/c2.mp4: expected 25 Hz, as 'rate_hz' or the first file says, got 12.5 Hz by the times; correct"
        " 'rate_hz', or 'time_unit'",
    ),
    Broken(
        harm=steps((20, 512), (2, 0), (28, 512)),
        says="DIR/c2.mp4: frame 21: expected times that increase, got 0.8 s after 0.8 s; "
        "encode it anew (ffmpeg -i c2.mp4 -r 25 c2-new.mp4)",
    ),
    Broken(
        recipe=(("width = 20", "width = 20\nregion = [20, 4, 30, 20]"),),
        says="DIR/c0.mp4: expected frames that hold the region [20, 4, 30, 20], got frames of 40x30; correct 'region'",
    ),
    Broken(
        harm=replaced("words.csv", b"c2,1.7,1.95", b"c2,5.7,5.95"),
        says="DIR/words.csv:7: expected an interval inside the recording, where all sensors last 1.96 s, got 5.7 to"
        " 5.95 s from its start; correct the line, or 'time_unit'; where a sensor stopped, cover = 'any'",
    ),
    Broken(
        recipe=(("length_s = 0.4", "length_s = 4.0"),),
        says="'windows': expected windows, got none (12 beyond the recording); shorten 'length_s', or "
        "look at the times of sensors and labels",
    ),
    Broken(
        recipe=(("height = 15\nwidth = 20", "height = 1300\nwidth = 1500"),),
        says="windows: 3 problems\n  - 'lips': expected a height from 1 to 1024 pixels, got 1300; give that of the"
        " stored frames\n  - 'lips': expected a width from 1 to 1024 pixels, got 1500; give that of the stored"
        " frames\n  - 'lips': expected windows of at most 16,777,216 bytes, got 10 x 1,300 x 1,500 x 1 ="
        " 19,500,000; cut windows of at most 8 frames, or make the frames smaller",
    ),
    Broken(
        recipe=(("height = 15\n", ""),),
        says="DIR/recipe.toml: 'source[0]' (lips): 'height' and 'width' are missing; "
        "give the size of the frames in the dataset, in pixels",
    ),
    Broken(
        recipe=(("height = 15", 'channels = ["hue"]\nheight = 15'),),
        says="DIR/recipe.toml: 'source[0].channels' (lips): expected ['gray'] or ['r', 'g', 'b'], "
        "got ['hue']; correct it",
    ),
    Broken(
        recipe=(('"{clip}.wav"', '"{clip}.mp4"'), ('{clip = "clip"}', '{clip = "clip"}\nrate_hz = 25.0')),
        says="DIR/recipe.toml: 'source[1].kind' (voice): the sound of a video needs files of its own; write them with"
        " ffmpeg -i FILE -vn FILE.wav",
    ),
    Broken(
        recipe=(('modality = "lips"', 'modality = "lips"\nkind = "series"'),),
        says="DIR/recipe.toml: 3 problems\n  - 'source[0].height' (lips): only for kind = 'video', got 15; remove it\n"
        "  - 'source[0].width' (lips): only for kind = 'video', got 20; remove it\n  - "
        "'source[0].kind' (lips): 'series' does not fit files of format 'video'; correct it",
    ),
    Broken(
        recipe=(("height = 15", 'unit = "m"\nresample = "hold"\nheight = 15'),),
        says="DIR/recipe.toml: 3 problems\n  - 'source[0].unit' (lips): not for kind = 'video', got 'm'; remove"
        " it\n  - 'source[0].resample' (lips): not for kind = 'video', got 'hold'; remove it\n  - 'source[0]'"
        " (lips): resample = 'hold' and 'hold_s' belong together; set both, or none",
    ),
    Broken(
        recipe=(('at = "intervals"', 'at = "intervals"\nstride_s = 0.2'),),
        says="DIR/recipe.toml: 'windows.stride_s': not with at = 'intervals'; remove one of them",
    ),
]


def headless(file: Path) -> bytes:
    """A film with its table of frames and half of its data."""
    content = file.read_bytes()
    start = content.rindex(b"mdat") + 4
    end = content.rindex(b"moov") - 4
    middle = (start + end) // 2
    return content[:middle] + bytes(end - middle) + content[end:]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_what_is_wrong_with_clips_is_told_with_what_to_do(case: Broken, tmp_path: Path) -> None:
    write_clips(tmp_path)
    text = (tmp_path / "recipe.toml").read_text()
    for old, new in case.recipe:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / "recipe.toml").write_text(text)
    case.harm(tmp_path)
    with pytest.raises(MmkdError) as error:
        import_recipe(read_recipe(tmp_path / "recipe.toml"), tmp_path, tmp_path / "talk")
    assert not (tmp_path / "talk").exists()
    assert str(error.value).replace(str(tmp_path), "DIR") == case.says
