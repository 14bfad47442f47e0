"""The proof of a long recording: what its files give back, and that a stream of them is where a whole-file pass is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge.frames import bytes_of
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from proofs import recorded_stream as proof


def test_a_film_and_a_sound_file_give_the_clips_back_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("soundfile")
    dataset = open_dataset(shipped_dataset("grid_words"))
    train = dataset.split("train")

    frames = list(proof.film(proof.write_film(dataset, tmp_path, seconds=2)))
    assert [round(time_s * 25) for _, time_s in frames] == list(range(50))
    lips = bytes_of(train.with_modalities(("lips",)).take(np.arange(5))["lips"]).reshape(50, 20, 30, 1)
    film = np.concatenate([frame for frame, _ in frames]).astype(float)
    assert np.abs(film - lips).mean() < 5  # of 255: Motion JPEG is lossy

    chunks = list(proof.sound(proof.write_sound(dataset, tmp_path, seconds=1.25)))
    assert [time_s for _, time_s in chunks] == pytest.approx(np.arange(13) / 10)
    voice = train.with_modalities(("voice",)).take(np.arange(4))["voice"].reshape(-1, 1)
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in chunks]), voice[:10_000], atol=1 / 32768)


def test_windows_of_a_whole_file_end_at_every_hop_and_with_it() -> None:
    rows = np.arange(11.0)[:, None]
    found = proof.windows_along(Path(), lambda _: iter([(rows[:7], 0.0), (rows[7:], 0.7)]), samples=4, hop=3)
    assert [window[:, 0].tolist() for window in found] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9], [7, 8, 9, 10]]


@pytest.mark.slow
def test_a_stream_of_a_recording_is_where_a_pass_over_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("soundfile")
    monkeypatch.setattr(sys, "argv", ["recorded_stream.py", "--minutes", "0.25", "--pace", "1"])
    proof.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[2:]] == ["| voice", "| lips"]
    assert [line[7] for line in lines[2:]] == ["74", "74"]
