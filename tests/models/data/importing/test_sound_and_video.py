"""Recordings of microphones and cameras, from their files to a dataset, and what is said of wrong ones."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mmkd_models.data import check_dataset
from mmkd_models.data.importing.draft import draft_recipe
from tests.models.data.importing.conftest import refusal, run

cv2 = pytest.importorskip("cv2")
soundfile = pytest.importorskip("soundfile")

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


def film(clip):
    """50 gray frames (30, 40) on which a bright bar moves up and down in the middle; the seed moves it otherwise."""
    rng = np.random.default_rng(clip)
    frames = np.full((FRAMES, 30, 40), 60, dtype=np.uint8)
    for number, step in enumerate(np.cumsum(rng.integers(1, 10, size=FRAMES))):  # never to where it is
        top = 8 + step % 10
        frames[number, top : top + 4, 16:28] = 200
    return frames


def write_film(file, frames, rate_hz=FRAME_HZ):
    """Writes frames (N, H, W) or (N, H, W, 3) of blue, green and red as MPEG-4."""
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if frame.ndim == 2 else frame)
    writer.release()


def with_steps(file, steps):
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


def tone(clip, seconds=2.0, rate_hz=SOUND_HZ):
    return np.random.default_rng(100 + clip).uniform(-0.5, 0.5, size=round(seconds * rate_hz))


@pytest.fixture(scope="module")
def sound_clips(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("clips") / "clips", ["clip,start,end,word"]
    folder.mkdir()
    for clip in range(CLIPS):
        write_film(folder / f"c{clip}.mp4", film(clip))
        soundfile.write(folder / f"c{clip}.wav", tone(clip), SOUND_HZ, subtype="PCM_16")
        words += [f"c{clip},0.5,0.7,yes", f"c{clip},1.7,1.95,no"]
    (folder / "words.csv").write_text("\n".join(words) + "\n")
    (folder / "recipe.toml").write_text(CLIPS_RECIPE)
    return folder


@pytest.fixture
def clips(sound_clips, tmp_path):
    return shutil.copytree(sound_clips, tmp_path, dirs_exist_ok=True)


def window_of_yes(windows, sensor):
    """The first window of "yes", which begins at 0.4 s, and the number of its clip."""
    row = int(np.flatnonzero(windows.labels == 1)[0])
    return windows.take([row])[sensor][0], int(str(windows.groups[row])[1:])


def shrunk(clip):
    """The film of a clip at half its size: (50, 15, 20)."""
    return film(clip).reshape(50, 15, 2, 20, 2).mean(axis=(2, 4))


def test_a_window_is_cut_in_the_middle_of_each_word_from_both_sensors(clips):
    report = run(clips)
    spec = report.dataset.spec
    assert [(one.name, one.kind, one.shape, one.rate_hz) for one in spec.modalities] == [
        ("lips", "video", (10, 15, 20, 1), 25.0),
        ("voice", "audio", (3200, 1), 8000.0),
    ]
    windows = report.dataset.everything()
    assert (len(windows), spec.task.labels) == (2 * CLIPS, ("no", "yes"))
    taken = windows.take(np.arange(len(windows)))
    for row in range(len(windows)):
        # "yes" has its middle at 0.6 s; "no" at 1.825 s, where a window would end behind the recording, at 2 s.
        start_s = 0.4 if windows.labels[row] == 1 else 1.6
        clip = int(str(windows.groups[row])[1:])
        first = round(start_s * SOUND_HZ)
        np.testing.assert_allclose(taken["voice"][row, :, 0], tone(clip)[first : first + 3200], atol=1.1 / 32768)
        wanted = shrunk(clip)[round(start_s * FRAME_HZ) :][:10]
        assert np.abs(taken["lips"][row, ..., 0] - wanted).mean() < 4  # MPEG-4 is lossy


def test_frames_in_colour_are_red_green_blue(clips, recipe):
    frames = np.zeros((50, 30, 40, 3), dtype=np.uint8)
    frames[..., 2] = 220  # OpenCV writes blue, green, red
    for clip in range(CLIPS):
        noisy = frames.copy()
        noisy[:, :8] = np.random.default_rng(clip).integers(0, 40, size=(50, 8, 40, 3))
        write_film(clips / f"c{clip}.mp4", noisy)
    recipe(("height = 15", 'channels = ["r", "g", "b"]\nheight = 15'))
    lips = run(clips).dataset.split("train").take([0])["lips"]
    assert lips.shape == (1, 10, 15, 20, 3)
    means = lips[0, :, 8:].mean(axis=(0, 1, 2))
    assert means[0] > 190
    assert means[1:].max() < 40


def test_a_fixed_region_is_cut_out_before_frames_are_scaled(clips, recipe):
    recipe(("height = 15\nwidth = 20", "height = 10\nwidth = 12\nregion = [16, 8, 12, 10]"))
    lips, clip = window_of_yes(run(clips).dataset.everything(), "lips")
    assert np.abs(lips[..., 0].astype(float) - film(clip)[10:20, 8:18, 16:28]).mean() < 8


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_sound_of_any_width_is_from_minus_1_to_1(clips, subtype):
    for clip in range(CLIPS):
        soundfile.write(clips / f"c{clip}.wav", tone(clip), SOUND_HZ, subtype=subtype)
    voice, clip = window_of_yes(run(clips).dataset.everything(), "voice")
    step = 1 / 128 if subtype == "PCM_U8" else 1 / 32768
    np.testing.assert_allclose(voice[:, 0], tone(clip)[3200:6400], atol=1.1 * step)


def test_sound_at_a_lower_rate_loses_what_would_be_folded_into_it(clips, recipe):
    seconds = np.arange(2 * SOUND_HZ) / SOUND_HZ
    for clip in range(CLIPS):
        sound = 0.4 * np.sin(2 * np.pi * (300 + clip) * seconds) + 0.4 * np.sin(2 * np.pi * 3100 * seconds)
        soundfile.write(clips / f"c{clip}.wav", sound, SOUND_HZ)
    recipe(('channels = {mono = "1"}', 'channels = {mono = "1"}\nresample_hz = 4000.0'))
    voice = run(clips).dataset.everything().take([0])["voice"][0, :, 0]
    spectrum = np.abs(np.fft.rfft(voice * np.hanning(len(voice)))) / len(voice) * 4
    freqs = np.fft.rfftfreq(len(voice), 1 / 4000)
    assert spectrum[np.abs(freqs - 300) < 15].max() == pytest.approx(0.4, rel=0.1)
    assert spectrum[np.abs(freqs - 900) < 15].max() < 0.004  # 4000 - 3100, where it would be without a filter


def test_frames_that_were_dropped_are_missing_by_the_times_of_the_container(clips, recipe):
    recipe(("width = 20", "width = 20\nrate_hz = 25"))
    for clip in range(CLIPS):  # after frame 14, at 0.56 s, three are missing
        with_steps(clips / f"c{clip}.mp4", [(14, 512), (1, 4 * 512), (35, 512)])
    report = run(clips)
    lips, clip = window_of_yes(report.dataset.everything(), "lips")
    assert isinstance(lips, np.ma.MaskedArray)
    assert (~lips.mask.any(axis=(1, 2, 3))).tolist() == [True] * 5 + [False] * 3 + [True] * 2
    assert np.abs(lips[8, ..., 0] - shrunk(clip)[15]).mean() < 4  # recorded at 0.72 s
    assert {(one.gaps, round(one.longest_gap_s, 3)) for one in report.clocks} == {(1, 0.16)}


def test_a_draft_knows_films_and_sound(clips):
    lines = draft_recipe(clips).splitlines()
    film_at, sound_at = lines.index('files = "c{c}.mp4"    # 6 files'), lines.index('files = "c{c}.wav"    # 6 files')
    assert lines[film_at - 2 : film_at + 4] == [
        "[[source]]",
        'modality = "c"',
        'files = "c{c}.mp4"    # 6 files',
        'channels = ["gray"]    # or ["r", "g", "b"]',
        "height = 30    # 30 recorded",
        "width = 40    # 40 recorded",
    ]
    assert lines[sound_at + 1] == 'kind = "audio"    # or "series", for a vibration that was recorded as sound'
    assert {'files = "words.csv"', 'start = "start"', 'end = "end"'} <= set(lines)


TABLE = {
    'files = "words.csv"\nlabel = "word"\ntime_unit = "s"\nmatch = {clip = "clip"}\n': 'table = "clips.csv"\n',
    'at = "intervals"': 'metadata = ["room"]',
    'group = "clip"': 'group = "talker"\ncolumn = "split"',
}
SPLITS = ("train", "train", "train", "valid", "test", "train")


def write_table(clips, **changed):
    lines = [f"c{clip}.wav,{'yes' if clip % 2 else 'no'},{SPLITS[clip]},t{clip},{clip // 3}" for clip in range(CLIPS)]
    lines = [changed.get(line.partition(".")[0], line) for line in lines]
    (clips / "clips.csv").write_text("\n".join(["file,label,split,talker,room", *lines]) + "\n")


def test_a_table_of_clips_says_label_group_split_and_metadata(clips, recipe):
    recipe(*TABLE.items())
    write_table(clips)
    dataset = run(clips).dataset
    assert dataset.spec.splits == {"train": 20, "valid": 5, "test": 5}  # windows of 0.4 s in 2 s
    test = dataset.split("test")
    assert set(test.groups) == {"t4"}
    assert (set(test.labels.tolist()), set(test.metadata["room"])) == ({0}, {"1"})


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
import re, sys
from pathlib import Path
from mmkd_app.commands.data import run_data
try:
    run_data(["import", sys.argv[1], "-o", sys.argv[2]])
except SystemExit as end:
    assert end.code == 0
print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])  # ru_maxrss begins at the parent's
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
    # 58 million samples are 230 MB in float32, and the filter works on float64. In blocks 462 MB were seen, with Python
    # and its libraries; pages of mapped files come and go.
    assert int(done.stdout.splitlines()[-1]) < 500_000
    assert [one.level for one in check_dataset(tmp_path / "out").findings] == ["note"]  # without groups


def cut_off(name, share):
    return lambda folder: os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def sound(name, values, rate_hz=SOUND_HZ):
    return lambda folder: soundfile.write(folder / name, values, rate_hz, subtype="PCM_16")


def steps(*table):
    return lambda folder: with_steps(folder / "c2.mp4", list(table))


WAV, FILM = "c2.wav", "c2.mp4"
# What is said of clips with changes of their recipe or `files`; `DIR` is their folder.
CASES = {
    "DIR/c2.wav: expected a sound file, got Error opening 'DIR/c2.wav': Format not recognised.; copy it again": {
        "files": lambda folder: (folder / WAV).write_bytes(b"")
    },
    "DIR/c2.wav: expected sound, got a file without samples; remove it, or copy it again": {
        "files": sound(WAV, np.zeros(0))
    },
    "DIR/c2.wav: expected 32000 bytes of sound as its header says, got 15978; copy it again": {
        "files": cut_off(WAV, 0.5)
    },
    "DIR/c2.wav: expected 8000 Hz as in DIR/c0.wav, got 16000; resample it, or make it a source of its own": {
        "files": sound(WAV, tone(2, rate_hz=16000), 16000)
    },
    "DIR/c2.wav: expected column '2' as in DIR/c0.wav, got '1'; correct the name in the recipe, or the file; or leave"
    ' the recording out: exclude = ["c2.wav"] below version = 1': {
        'channels = {mono = "1"}\n': "",
        "files": lambda folder: [
            sound(f"c{clip}.wav", np.stack([tone(clip), tone(clip + 9)], 1))(folder) for clip in (0, 1, 3, 4, 5)
        ],
    },
    "DIR/c2.mp4: expected video that OpenCV can decode, got another format or a damaged file; copy it again, or encode"
    " it anew (ffmpeg -i c2.mp4 -c:v libx264 c2-new.mp4)": {"files": cut_off(FILM, 0.6)},
    "DIR/c2.mp4: expected 50 frames as its container says, got 26; copy it again": {
        "files": lambda folder: (folder / FILM).write_bytes(headless(folder / FILM))
    },
    "DIR/c2.mp4: expected 25 Hz, as 'rate_hz' or the first file says, got 12.5 Hz by the times; correct 'rate_hz', or"
    " 'time_unit'": {"files": steps((50, 1024))},
    "DIR/c2.mp4: frame 21: expected times that increase, got 0.8 s after 0.8 s; encode it anew (ffmpeg -i c2.mp4 -r 25"
    " c2-new.mp4)": {"files": steps((20, 512), (2, 0), (28, 512))},
    "DIR/c0.mp4: expected frames that hold the region [20, 4, 30, 20], got frames of 40x30; correct 'region'": {
        "width = 20": "width = 20\nregion = [20, 4, 30, 20]"
    },
    "DIR/words.csv:7: expected an interval inside the recording, where all sensors last 2 s, got 5.7 to 5.95 s from"
    " its start; correct the line, or 'time_unit'; where a sensor stopped, cover = 'any'": {
        "files": lambda folder: (folder / "words.csv").write_text(
            (folder / "words.csv").read_text().replace("c2,1.7,1.95", "c2,5.7,5.95")
        )
    },
    "'windows': expected windows, got none (12 beyond the recording); 'length_s' is 4 s, and the longest recording,"
    " c0.mp4, has 2 s; shorten it": {"length_s = 0.4": "length_s = 4.0"},
    "windows: 3 problems\n  - 'lips': expected a height from 1 to 1024 pixels, got 1300; give that of the stored"
    " frames\n  - 'lips': expected a width from 1 to 1024 pixels, got 1500; give that of the stored frames\n  -"
    " 'lips': expected windows of at most 16,777,216 bytes, got 10 x 1,300 x 1,500 x 1 = 19,500,000; cut windows of at"
    " most 8 frames, or make the frames smaller": {"height = 15\nwidth = 20": "height = 1300\nwidth = 1500"},
    "DIR/recipe.toml: 'source[0]' (lips): 'height' and 'width' are missing; give the size of the frames in the"
    " dataset, in pixels": {"height = 15\n": ""},
    "DIR/recipe.toml: 'source[0].channels' (lips): expected ['gray'] or ['r', 'g', 'b'], got ['hue']; correct it": {
        "height = 15": 'channels = ["hue"]\nheight = 15'
    },
    "DIR/recipe.toml: 'source[1].kind' (voice): the sound of a video needs files of its own; write them with ffmpeg -i"
    " FILE -vn FILE.wav": {'"{clip}.wav"': '"{clip}.mp4"', '{clip = "clip"}': '{clip = "clip"}\nrate_hz = 25.0'},
    "DIR/recipe.toml: 3 problems\n  - 'source[0].height' (lips): only for kind = 'video', got 15; remove it\n  -"
    " 'source[0].width' (lips): only for kind = 'video', got 20; remove it\n  - 'source[0].kind' (lips): 'series' does"
    " not fit files of format 'video'; correct it": {'modality = "lips"': 'modality = "lips"\nkind = "series"'},
    "DIR/recipe.toml: 3 problems\n  - 'source[0].unit' (lips): not for kind = 'video', got 'm'; remove it\n  -"
    " 'source[0].resample' (lips): not for kind = 'video', got 'hold'; remove it\n  - 'source[0]' (lips): resample ="
    " 'hold' and 'hold_s' belong together; set both,"
    " or none": {"height = 15": 'unit = "m"\nresample = "hold"\nheight = 15'},
    "DIR/recipe.toml: 'windows.stride_s': not with at = 'intervals'; remove one of them": {
        'at = "intervals"': 'at = "intervals"\nstride_s = 0.2'
    },
    "DIR/clips.csv:4: expected a recording of file 'c9.wav', found none; there are 'c0.wav', 'c1.wav', 'c2.wav',"
    " 'c3.wav', 'c4.wav'; correct it, or remove the line": {
        **TABLE,
        "files": lambda folder: write_table(folder, c2="c9.wav,no,train,t2,0"),
    },
    "DIR/clips.csv:4: expected each recording once, got again that of DIR/clips.csv:3; remove a line": {
        **TABLE,
        "files": lambda folder: write_table(folder, c2="c1.wav,no,train,t2,0"),
    },
    "c2.mp4: expected 'train', 'valid' or 'test' in 'split', got 'dev'; correct it, or leave 'split.column' out": {
        **TABLE,
        "files": lambda folder: write_table(folder, c2="c2.wav,no,dev,t2,0"),
    },
    "DIR/clips.csv: expected a line for every recording, found none for DIR/c5.mp4; add it, or remove the file": {
        **TABLE,
        "files": lambda folder: write_table(folder, c5=""),
    },
}


def headless(file):
    """A film with its table of frames and half of its data."""
    content = file.read_bytes()
    start = content.rindex(b"mdat") + 4
    end = content.rindex(b"moov") - 4
    middle = (start + end) // 2
    return content[:middle] + bytes(end - middle) + content[end:]


@pytest.mark.parametrize(("says", "changes"), CASES.items(), ids=range(len(CASES)))
def test_what_is_wrong_with_clips_is_told_with_what_to_do(says, changes, clips, recipe):
    recipe(*((old, new) for old, new in changes.items() if old != "files"))
    changes.get("files", lambda folder: None)(clips)
    assert refusal(clips) == says
