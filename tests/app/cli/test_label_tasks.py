"""Signals in tasks of Label Studio: long series, sound and video."""

import base64
import io
import wave

import numpy as np
import pytest

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_models.data.label_tasks import label_config, label_task

VIBRATION = ModalitySpec(name="vib", channels=("z",), rate_hz=5000.0, samples=5000)
MIC = ModalitySpec(name="mic", channels=("0",), rate_hz=8000.0, samples=4, kind="audio")
CAM = ModalitySpec(name="cam", channels=("gray",), rate_hz=10.0, samples=10, kind="video", height=24, width=32)


def content(address, kind):
    head, _, data = address.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(data)


def test_sound_and_video_play_beside_a_series_that_is_thinned_to_be_looked_at(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="needs pip install 'mmkd-edge[video]'")
    windows = {
        "vib": np.arange(5000, dtype=np.float32)[:, None],
        "mic": np.array([[0.0], [0.5], [-2.0], [np.nan]], dtype=np.float32),
        "cam": np.repeat(np.arange(10, dtype=np.uint8) * 25, 24 * 32).reshape(10, 24, 32, 1),
    }
    task = label_task(windows, [VIBRATION, MIC, CAM], 0.0, group="a", likely="", probability=0.0)
    data = task["data"]
    assert task["predictions"] == []  # nothing is likely
    assert data["x_vib"]["z"] == [float(value) for value in range(0, 5000, 3)]
    assert data["x_vib"]["time"][:3] == [0.0, 0.0006, 0.0012]
    with wave.open(io.BytesIO(content(data["x_mic"], "audio/wav"))) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (8000, 1)
        assert np.frombuffer(sound.readframes(4), "<i2").tolist() == [0, 16383, -32767, 0]
    (tmp_path / "a.webm").write_bytes(content(data["x_cam"], "video/webm"))
    video = cv2.VideoCapture(str(tmp_path / "a.webm"))
    frames = []
    while (read := video.read())[0]:
        frames.append(float(read[1].mean()))
    assert frames == pytest.approx([25 * number for number in range(10)], abs=8)


TO_MIC = 'name="label" toName="mic" required="true"'


def choices(*labels):
    return "".join(f'<Choice value="{label}"/>' for label in labels)


@pytest.mark.parametrize(
    ("kind", "labels", "asked"),
    [
        ("multi_label", ("hot", "a<b"), f'<Choices {TO_MIC} choice="multiple">{choices("hot", "a&lt;b")}</Choices>'),
        ("regression", ("wear",), f"<Number {TO_MIC}/>"),
        ("normal", ("normal",), f'<Choices {TO_MIC} choice="single">{choices("normal", "fault")}</Choices>'),
    ],
)
def test_the_question_is_that_of_the_task(kind, labels, asked):
    task = TaskSpec(kind=kind, labels=labels)
    assert label_config([MIC, CAM], task) == (
        '<View>\n  <Header value="$title"/>\n  <Audio name="mic" value="$x_mic" sync="window"/>\n'
        f'  <Video name="cam" value="$x_cam" sync="window"/>\n  {asked}\n</View>\n'
    )
