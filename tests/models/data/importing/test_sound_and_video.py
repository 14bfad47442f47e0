"""Recordings of microphones and cameras, from their files to a dataset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import cut_out
from mmkd_models.data import check_dataset
from mmkd_models.data.importing.draft import draft_recipe
from mmkd_models.data.importing.from_recipe import RecipeReport, import_recipe
from mmkd_models.data.importing.recipe import read_recipe

pytest.importorskip("cv2")
soundfile = pytest.importorskip("soundfile")
sys.path.insert(0, str(Path(__file__).parent))

from film_cases import CLIPS, FRAME_HZ, SOUND_HZ, film, tone, with_steps, write_clips, write_film  # noqa: E402


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_clips(tmp_path)
    return tmp_path


@pytest.fixture
def change(clips: Path) -> Callable[..., None]:
    """Changes texts of the recipe."""

    def _change(*pairs: tuple[str, str]) -> None:
        file = clips / "recipe.toml"
        text = file.read_text()
        for old, new in pairs:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file.write_text(text)

    return _change


def made(clips: Path, name: str = "talk") -> RecipeReport:
    return import_recipe(read_recipe(clips / "recipe.toml"), clips, clips / name)


def clip_of(windows, row) -> int:
    return int(str(windows.groups[row]).removeprefix("c"))


def test_a_window_is_cut_in_the_middle_of_each_word_from_both_sensors(clips):
    report = made(clips)
    spec = report.dataset.spec
    assert [(one.name, one.kind, one.shape, one.rate_hz) for one in spec.modalities] == [
        ("lips", "video", (10, 15, 20, 1), 25.0),
        ("voice", "audio", (3200, 1), 8000.0),
    ]
    windows = report.dataset.everything()
    assert (len(windows), spec.task.labels) == (2 * CLIPS, ("no", "yes"))
    taken = windows.take(np.arange(len(windows)))
    for row in range(len(windows)):
        # "yes" has its middle at 0.6 s; "no" at 1.825 s, where a window would end behind the last frame at 1.96 s.
        start_s = 0.4 if windows.labels[row] == 1 else 1.56
        clip = clip_of(windows, row)
        first = round(start_s * SOUND_HZ)
        np.testing.assert_allclose(taken["voice"][row, :, 0], tone(clip)[first : first + 3200], atol=1.1 / 32768)
        shrunk = film(clip).reshape(50, 15, 2, 20, 2).mean(axis=(2, 4))[round(start_s * FRAME_HZ) :][:10]
        assert np.abs(taken["lips"][row, ..., 0] - shrunk).mean() < 4  # MPEG-4 is lossy


def test_frames_in_colour_are_red_green_blue(clips, change):
    frames = np.zeros((50, 30, 40, 3), dtype=np.uint8)
    frames[..., 2] = 220  # OpenCV writes blue, green, red
    for clip in range(CLIPS):
        noisy = frames.copy()
        noisy[:, :8] = np.random.default_rng(clip).integers(0, 40, size=(50, 8, 40, 3))
        write_film(clips / f"c{clip}.mp4", noisy)
    change(("height = 15", 'channels = ["r", "g", "b"]\nheight = 15'))
    lips = made(clips).dataset.split("train").take([0])["lips"]
    assert lips.shape == (1, 10, 15, 20, 3)
    means = lips[0, :, 8:].mean(axis=(0, 1, 2))
    assert means[0] > 190
    assert means[1:].max() < 40


def test_a_fixed_region_is_cut_out_before_frames_are_scaled(clips, change):
    change(("height = 15\nwidth = 20", "height = 10\nwidth = 12\nregion = [16, 8, 12, 10]"))
    windows = made(clips).dataset.everything()
    row = int(np.flatnonzero(windows.labels == 1)[0])
    wanted = film(clip_of(windows, row))[10:20, 8:18, 16:28]
    assert np.abs(windows.take([row])["lips"][0, ..., 0].astype(float) - wanted).mean() < 8


def test_scaling_down_averages_pixels():
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:2, :2] = np.array([10, 20, 40])  # blue, green, red
    pixels[0, 0] = np.array([50, 60, 80])
    scaled = cut_out(pixels, (0, 0, 4, 4), height=2, width=2, is_gray=False)
    assert scaled[0, 0].tolist() == [50, 30, 20]
    assert cut_out(pixels, None, height=2, width=3, is_gray=True).shape == (2, 3, 1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_sound_of_any_width_is_from_minus_1_to_1(clips, subtype):
    for clip in range(CLIPS):
        soundfile.write(clips / f"c{clip}.wav", tone(clip), SOUND_HZ, subtype=subtype)
    windows = made(clips).dataset.everything()
    row = int(np.flatnonzero(windows.labels == 1)[0])
    wanted = tone(clip_of(windows, row))[3200:6400]
    step = 1 / 128 if subtype == "PCM_U8" else 1 / 32768
    np.testing.assert_allclose(windows.take([row])["voice"][0, :, 0], wanted, atol=1.1 * step)


def test_sound_at_a_lower_rate_loses_what_would_be_folded_into_it(clips, change):
    seconds = np.arange(2 * SOUND_HZ) / SOUND_HZ
    for clip in range(CLIPS):
        sound = 0.4 * np.sin(2 * np.pi * (300 + clip) * seconds) + 0.4 * np.sin(2 * np.pi * 3100 * seconds)
        soundfile.write(clips / f"c{clip}.wav", sound, SOUND_HZ)
    change(('channels = {mono = "1"}', 'channels = {mono = "1"}\nresample_hz = 4000.0'))
    windows = made(clips).dataset.everything()
    voice = windows.take([0])["voice"][0, :, 0]
    spectrum = np.abs(np.fft.rfft(voice * np.hanning(len(voice)))) / len(voice) * 4
    freqs = np.fft.rfftfreq(len(voice), 1 / 4000)
    assert spectrum[np.abs(freqs - 300) < 15].max() == pytest.approx(0.4, rel=0.1)
    assert spectrum[np.abs(freqs - 900) < 15].max() < 0.004  # 4000 - 3100, where it would be without a filter


def test_frames_that_were_dropped_are_missing_by_the_times_of_the_container(clips, change):
    change(("width = 20", "width = 20\nrate_hz = 25"))
    for clip in range(CLIPS):  # after frame 14, at 0.56 s, three are missing
        with_steps(clips / f"c{clip}.mp4", [(14, 512), (1, 4 * 512), (35, 512)])
    report = made(clips)
    windows = report.dataset.everything()
    row = int(np.flatnonzero(windows.labels == 1)[0])  # from 0.4 s
    lips = windows.take([row])["lips"]
    assert isinstance(lips, np.ma.MaskedArray)
    there = ~lips.mask.any(axis=(2, 3, 4))[0]
    assert there.tolist() == [True] * 5 + [False] * 3 + [True] * 2
    wanted = film(clip_of(windows, row)).reshape(50, 15, 2, 20, 2).mean(axis=(2, 4))[15]  # recorded at 0.72 s
    assert np.abs(lips[0, 8, ..., 0] - wanted).mean() < 4
    assert {(one.gaps, round(one.longest_gap_s, 3)) for one in report.clocks} == {(1, 0.16)}


def test_the_way_from_the_command_to_a_sound_dataset(clips):
    command = [sys.executable, "-c", "from mmkd_models.commands.data import main; main()"]
    done = subprocess.run(
        [*command, "import", "recipe.toml", "-o", "talk"], cwd=clips, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("lips: 6 files, gray, 25 Hz; jitter p99 up to 0.00 ms")
    assert lines[1] == "voice: 6 files, mono, 8000 Hz"
    assert lines[2] == "talk: 12 windows of 6 recordings (train 8, valid 2, test 2)"
    assert not any(finding.kind == "gaps" for finding in check_dataset(clips / "talk").findings)


def test_a_draft_knows_films_and_sound(clips):
    lines = draft_recipe(clips).splitlines()
    film_at, sound_at = lines.index('files = "c{c}.mp4"    # 6 files'), lines.index('files = "c{c}.wav"    # 6 files')
    assert lines[film_at - 2 : film_at + 4] == [
        "[[source]]",
        'modality = "c"',
        'files = "c{c}.mp4"    # 6 files',
        'channels = ["gray"]    # ? or ["r", "g", "b"]',
        "height = 30    # ? 30 recorded",
        "width = 40    # ? 40 recorded",
    ]
    assert lines[sound_at + 1] == 'kind = "audio"    # ? or "series", for a vibration that was recorded as sound'
    assert {'files = "words.csv"', 'start = "start"', 'end = "end"'} <= set(lines)


TABLE = (
    ('files = "words.csv"\nlabel = "word"\ntime_unit = "s"\nmatch = {clip = "clip"}\n', 'table = "clips.csv"\n'),
    ('at = "intervals"', 'metadata = ["room"]'),
    ('group = "clip"', 'group = "talker"\ncolumn = "split"'),
)
SPLITS = ("train", "train", "train", "valid", "test", "train")


def write_table(clips: Path, **changed: str) -> None:
    lines = [f"c{clip}.wav,{'yes' if clip % 2 else 'no'},{SPLITS[clip]},t{clip},{clip // 3}" for clip in range(CLIPS)]
    lines = [changed.get(line.partition(".")[0], line) for line in lines]
    (clips / "clips.csv").write_text("\n".join(["file,label,split,talker,room", *lines]) + "\n")


def test_a_table_of_clips_says_label_group_split_and_metadata(clips, change):
    change(*TABLE)
    write_table(clips)
    dataset = made(clips).dataset
    assert dataset.spec.splits == {"train": 16, "valid": 4, "test": 4}  # windows of 0.4 s in 1.96 s
    test = dataset.split("test")
    assert set(test.groups) == {"t4"}
    assert (set(test.labels.tolist()), set(test.metadata["room"])) == ({0}, {"1"})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"c2": "c9.wav,no,train,t2,0"},
            "clips.csv:4: expected a recording of file 'c9.wav', found none; correct it, or remove it",
        ),
        (
            {"c2": "c1.wav,no,train,t2,0"},
            "clips.csv:4: expected each recording once, got again that of DIR/clips.csv:3; remove a line",
        ),
        (
            {"c2": "c2.wav,no,dev,t2,0"},
            (
                "clip c2: expected 'train', 'valid' or 'test' in 'split', got 'dev'; correct it, or leave"
                " 'split.column' out"
            ),
        ),
    ],
)
def test_a_table_that_does_not_fit(clips, change, changed, says):
    change(*TABLE)
    write_table(clips, **changed)
    with pytest.raises(DatasetError) as error:
        made(clips)
    assert str(error.value).replace(str(clips), "DIR").removeprefix("DIR/") == says


def test_a_recording_that_the_table_leaves_out(refusal, clips, change):
    change(*TABLE)
    write_table(clips)
    file = clips / "clips.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert refusal(DatasetError, made, clips) == (
        f"{file}: expected a line for every recording, found none for {clips}/c5.mp4; add it, or remove the file"
    )


_HOUR_RECIPE = """version = 1
[[source]]
modality = "voice"
kind = "audio"
files = "hour.wav"
resample_hz = 8000.0
[labels]
files = "states.csv"
time_unit = "s"
[windows]
length_s = 1.0
"""
_PEAK = """
import resource, sys
from mmkd_models.commands.data import run_data
try:
    run_data(["import", sys.argv[1], "-o", sys.argv[2]])
except SystemExit as end:
    assert end.code == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_hour_of_sound_is_resampled_in_bounded_memory(tmp_path):
    rate_hz, minute = 16_000, 60
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", samplerate=rate_hz, channels=1) as opened:
        for _ in range(60):
            opened.write(rng.normal(scale=0.1, size=minute * rate_hz))
    (tmp_path / "states.csv").write_text("start,end,label\n0,1800,on\n1800,3600,off\n")
    (tmp_path / "recipe.toml").write_text(_HOUR_RECIPE)
    line = [sys.executable, "-c", _PEAK, str(tmp_path / "recipe.toml"), str(tmp_path / "out")]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    # 58 million samples are 230 MB in float32, and the filter works on float64. In blocks 333 MB were seen, with Python
    # and its libraries; pages of mapped files come and go.
    assert int(done.stdout.splitlines()[-1]) < 450_000
    assert check_dataset(tmp_path / "out").findings == ()
