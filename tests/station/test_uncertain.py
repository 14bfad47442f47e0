"""Windows that were uncertain, on the disk and back in a dataset."""

import json

import msgspec
import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_edge import ModalitySpec, TaskSpec, UsageError
from mmkd_edge.errors import DatasetError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.testing import fake_predictor
from mmkd_models.data.importing.kept_windows import kept_tasks
from mmkd_models.data.importing.window_files import import_windows
from mmkd_station.uncertain import UncertainRing
from tests.edge.said import said

ACC = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=10.0, samples=20)
TASK = TaskSpec(labels=("ok", "worn"))


def ring(folder, *, most_bytes=10**7, station="press1", modality=ACC, **more):
    return UncertainRing(
        folder, most_bytes=most_bytes, below=0.6, station=station, modality=modality, task=TASK, **more
    )


def prediction(probability, **changes):
    predictor = fake_predictor([1 - probability, probability], modality=ACC, labels=TASK)
    return msgspec.structs.replace(predictor.predict(np.ones((20, 2))), **changes)


def window(number):
    return np.full((20, 2), number, dtype=np.float32)


def only_file(folder, name="*"):
    (file,) = folder.glob(name)
    with np.load(file) as arrays:
        return dict(arrays)


def test_only_what_is_uncertain_is_kept_and_neighbours_are_not_kept_twice(tmp_path):
    kept = ring(tmp_path)
    kept.see(window(1), prediction(0.9), time_s=100.0)
    kept.see(window(2), prediction(0.55), time_s=102.0)
    kept.see(window(3), prediction(0.55), time_s=103.0)  # overlaps the one before by half
    kept.see(window(4), prediction(0.9, label_set=("worn", "ok")), time_s=104.0)
    kept.see(window(5), prediction(0.55, status="stale"), time_s=110.0)
    kept.close()
    assert kept.facts().kept == 2
    arrays = only_file(tmp_path, "press1-00000001.npz")
    assert arrays["x_acc"][:, 0, 0].tolist() == [2, 4]
    assert arrays["y"].tolist() == [-1, -1]
    assert arrays["time"].tolist() == [pytest.approx(100.1), pytest.approx(102.1)]
    assert arrays["column_reason"].tolist() == ["low probability", "several labels"]
    assert arrays["column_answer"].tolist() == ["worn", "worn"]


def test_windows_that_training_never_saw_are_kept_however_sure_the_answer(tmp_path):
    kept = ring(tmp_path)
    kept.see(window(1), prediction(0.99, status="unknown"), time_s=100.0)
    kept.see(window(2), prediction(0.99, status="unknown", index=-1), time_s=110.0)  # there is no answer to correct
    kept.close()
    assert only_file(tmp_path)["column_reason"].tolist() == ["unknown"]


def test_windows_of_an_episode_that_was_called_false_are_kept_and_no_others(tmp_path):
    kept = ring(tmp_path, alarms=["worn"])
    for number, probability in enumerate([0.9, 0.9, 0.1, 0.55, 0.9, 0.9]):  # at 100, 102, ... 110 s
        kept.see(window(number), prediction(probability), time_s=100.0 + 2 * number)
        kept.see(window(number), prediction(probability), time_s=101.0 + 2 * number)  # overlaps it by half
    kept.contradict("worn", since_s=102.0, until_s=108.0)
    kept.contradict("worn", since_s=102.0, until_s=108.0)  # said twice
    kept.close()
    arrays = only_file(tmp_path)
    found = zip(arrays["x_acc"][:, 0, 0].tolist(), arrays["column_reason"].tolist(), strict=True)
    assert list(found) == [(3, "low probability"), (1, "contradicted"), (4, "contradicted")]
    assert arrays["column_answer"].tolist() == ["worn"] * 3


def labelled_and_imported(folder):
    """What a ring kept of four windows, with a label and a split each, as a dataset; and the arrays of its file."""
    kept = only_file(folder / "uncertain")
    labels = {"y": np.array([0, 1, 0, 1]), "split": np.array([0, 0, 1, 2]), "group": np.array(["a", "a", "b", "c"])}
    np.savez(folder / "labelled.npz", **(kept | labels))
    return import_windows(folder / "labelled.npz", folder / "data")[0], kept


def test_what_was_kept_is_labelled_in_label_studio_and_imported(tmp_path, capsys):
    kept = ring(tmp_path, station="press 1")
    for number in range(5):
        samples = window(number)
        samples[0, 1] = np.nan
        kept.see(samples, prediction(0.55), time_s=1_760_000_000 + 5.0 * number)
    kept.close()
    out, export = tmp_path / "tasks.json", tmp_path / "export.json"
    with pytest.raises(SystemExit, match="0"):
        run_data(["tasks", str(tmp_path), "-o", str(out)])
    assert capsys.readouterr().out == (
        f"wrote {out} and {tmp_path}/tasks.xml; label them, and export JSON to {export}\n"
        f"next: mmkd-data import {export} -o labelled\n"
    )
    tasks = json.loads(out.read_text())
    assert (tmp_path / "tasks.xml").read_text() == (
        '<View>\n  <Header value="$title"/>\n'
        '  <TimeSeries name="acc" value="$x_acc" sync="window" valueType="json" timeColumn="time">'
        '<Channel column="x" displayName="x" units="g"/><Channel column="y" displayName="y" units="g"/></TimeSeries>\n'
        '  <Choices name="label" toName="acc" required="true" choice="single">'
        '<Choice value="ok"/><Choice value="worn"/></Choices>\n</View>\n'
    )
    first = tasks[1]
    samples = {"time": [number / 10 for number in range(20)], "x": [1.0] * 20, "y": [None] + [1.0] * 19}
    result = {"from_name": "label", "to_name": "acc", "type": "choices", "value": {"choices": ["worn"]}}
    assert first == {
        "data": {
            "x_acc": samples,
            "title": "press 1 2025-10-09 08:53:23 UTC",
            "group": "press 1",
            "reason": "low probability",
            "file": f"{next(tmp_path.glob('*.npz')).name}",
            "row": 1,
            "start": "2025-10-09T08:53:23.100000+00:00",  # 19 samples before the newest one
            "end": "2025-10-09T08:53:25.100000+00:00",
        },
        "predictions": [{"model_version": "mmkd-edge", "score": pytest.approx(0.55), "result": [result]}],
    }

    def exported(*answers):
        for task, answer in zip(tasks, answers, strict=True):
            result = [] if answer is None else [{"type": "choices", "value": {"choices": [answer]}}]
            task["annotations"] = [{"result": result}]
        export.write_text(json.dumps(tasks[::-1]))

    exported("worn", "ok", "worn", None, "ok")
    dataset, _ = import_windows(export, tmp_path / "data")
    everything = dataset.everything()
    assert dataset.spec.splits == {"train": 2, "valid": 1, "test": 1}
    assert everything.take(np.arange(4))["acc"][:, 1, 0].tolist() == [0, 1, 2, 4]  # that without a label is left out
    assert everything.labels.tolist() == [1, 0, 1, 0]
    assert everything.metadata["station"].tolist() == ["press 1"] * 4
    exported("ok", "loose", "worn", "ok", "ok")  # one class is new
    assert import_windows(export, tmp_path / "new")[0].spec.task.labels == ("ok", "worn", "loose")
    exported(*[None] * 5)
    assert said(UsageError, lambda: import_windows(export, tmp_path / "no")) == (
        f"{export}: expected labels of the tasks of mmkd-data tasks, found none; label some, and export"
    )
    export.write_text('[{"id": 1}]')
    assert said(DatasetError, lambda: import_windows(export, tmp_path / "no")) == (
        f"{export}: expected an export in JSON of the tasks of mmkd-data tasks, with one choice each, got another "
        "(Object missing required field 'data' - at '$[0]'); a recipe reads other exports"
    )
    gyro = ring(tmp_path, station="press 2", modality=msgspec.structs.replace(ACC, name="gyro"))
    gyro.see(window(1), prediction(0.55), time_s=0.0)
    gyro.close()
    one, other = sorted(tmp_path.glob("*.npz"))
    assert said(DatasetError, lambda: list(kept_tasks(tmp_path)[0])) == (
        f"{other}: expected the sensor and the classes of {one.name}, got others; move it to another folder"
    )
    assert said(UsageError, lambda: kept_tasks(tmp_path / "data")) == (
        f"{tmp_path / 'data'}: expected windows of mmkd-run --keep-uncertain, found none; check the path"
    )


def test_frames_come_back_as_video_and_missing_ones_stay_missing(tmp_path):
    camera = ModalitySpec(name="cam", channels=("gray",), rate_hz=10.0, samples=5, kind="video", height=4, width=6)
    kept = ring(tmp_path / "uncertain", most_bytes=10**6, modality=camera)
    for number in range(4):
        frames = np.full((5, 4, 6, 1), number + 1, dtype=np.uint8)
        lost = np.zeros(5, dtype=bool)
        lost[number] = True
        kept.see(mask_missing(frames, lost), prediction(0.5), time_s=10.0 * number)
    kept.close()
    dataset, _ = labelled_and_imported(tmp_path)
    assert (dataset.spec.modalities[0].kind, dataset.spec.modalities[0].shape) == ("video", (5, 4, 6, 1))
    windows = dataset.everything().take(np.arange(4))["cam"]
    assert missing_frames(windows).tolist() == np.eye(5, dtype=bool)[:4].tolist()
    assert [int(frame_bytes(one)[-1, 0, 0, 0]) for one in windows] == [1, 2, 3, 4]


def test_sound_comes_back_as_sound(tmp_path):
    mic = ModalitySpec(name="mic", channels=("0",), rate_hz=8000.0, samples=1600, kind="audio")
    kept = ring(tmp_path / "uncertain", most_bytes=10**6, modality=mic)
    for number in range(4):
        kept.see(np.full((1600, 1), 0.1 * number, dtype=np.float32), prediction(0.5), time_s=10.0 * number)
    kept.close()
    dataset, arrays = labelled_and_imported(tmp_path)
    assert dataset.spec.modalities[0].kind == "audio"
    assert dataset.spec.splits == {"train": 2, "valid": 1, "test": 1}
    assert sorted(dataset.everything().metadata) == ["answer", "probability", "reason"]
    assert arrays["x_mic"][:, 0, 0].tolist() == [pytest.approx(0.1 * number) for number in range(4)]


def test_several_sensors_have_files_of_their_own_and_share_the_bytes(tmp_path):
    gyro = msgspec.structs.replace(ACC, name="gyro")
    rings = [ring(tmp_path, most_bytes=12_000, modality=one, sensors=2) for one in (ACC, gyro)]
    for number in range(200):
        for one in rings:
            one.see(window(number), prediction(0.5), time_s=10.0 * number)
    for one in rings:
        one.close()
    files = sorted(tmp_path.iterdir())
    assert sorted({file.name.partition("-")[0] for file in files}) == ["press1_acc", "press1_gyro"]
    assert sum(file.stat().st_size for file in files) <= 12_000
    assert (rings[0].facts().removed > 0, sum(one.facts().kept for one in rings)) == (True, 400)


def test_a_ring_that_a_few_windows_would_fill_is_refused(tmp_path):
    frame = {"kind": "video", "height": 64, "width": 64}
    camera = ModalitySpec(name="cam", channels=("r", "g", "b"), rate_hz=10.0, samples=50, **frame)
    assert said(UsageError, lambda: ring(tmp_path, most_bytes=1_000_000, modality=camera)) == (
        "--keep-uncertain 1,000,000: expected 2,457,600 bytes or more: a window of 'cam' has 614,400; keep more"
    )


def test_the_ring_keeps_within_its_bytes_and_goes_on_where_it_was(tmp_path):
    size_bytes = 0
    for number in range(5):
        kept = ring(tmp_path, most_bytes=2 * size_bytes + 100 if size_bytes else 10**6)
        kept.see(window(number), prediction(0.5), time_s=0.0)
        kept.close()
        size_bytes = next(tmp_path.iterdir()).stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["press1-00000004.npz", "press1-00000005.npz"]
    assert kept.facts().removed == 1


def test_stations_whose_names_differ_in_a_sign_alone_have_files_of_their_own(tmp_path):
    for _ in range(2):
        rings = [ring(tmp_path, station=station) for station in ("press 1", "press-1", "press_1", "press")]
        for kept in rings:
            kept.see(window(1), prediction(0.5), time_s=0.0)
            kept.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name.partition("-")[0] for path in files] == ["press"] * 2 + ["press_1"] * 6
    stations = [str(np.load(path)["group"][0]) for path in files]
    assert sorted(stations) == ["press", "press", "press 1", "press 1", "press-1", "press-1", "press_1", "press_1"]
