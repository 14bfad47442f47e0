"""`mmkd-bench frames`: a real film beside a real bundle, whose steps are timed apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkd_bench import frames
from mmkd_bench.commands.app import make_app
from mmkd_bench.commands.cli import main
from mmkd_bench.frames import measure_frames
from mmkd_bench.measuring.process import Interrupted
from mmkd_bench.show.frames import frames_sheet
from mmkd_bench.show.render import csv_of, markdown_of
from mmkd_edge.errors import UsageError

pytest.importorskip("cv2")

from tests.edge.level_rig import write_film, write_lips


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    write_film(path, [0, 100, 200])
    return path


@pytest.fixture
def lips(tmp_path: Path) -> Path:
    return write_lips(tmp_path / "lips.edge")


def test_a_film_of_three_frames_is_begun_anew_until_the_time_is_over(film: Path, lips: Path) -> None:
    report = measure_frames(lips, film, region=(6, 4, 12, 8), backend="ort", duration_s=0.1)
    assert (report.complete, report.recorded, report.kept, report.samples) == (True, (24, 16), (12, 8), 4)
    assert report.count > 5 * 4  # of each stretch at least a window
    for spread in (report.decode_us, report.scale_us, report.predict_us):
        assert spread.repeats == 5
        assert 0 < spread.min <= spread.median <= spread.max
    shares = [float(line.split(",")[-1]) for line in csv_of(frames_sheet(report)).splitlines()[1:]]
    assert sum(shares) == pytest.approx(1)
    assert markdown_of(frames_sheet(report)).startswith(f"### {film}, 24x16, beside {lips}\n")


def test_a_stretch_that_was_over_is_kept_at_ctrl_c(film: Path, lips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = iter([frames._stretch])

    def second_is_interrupted(*arguments: object) -> frames.Times:
        for stretch in first:
            return stretch(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(frames, "_stretch", second_is_interrupted)
    with pytest.raises(Interrupted) as caught:
        measure_frames(lips, film, backend="ort", duration_s=0.1)
    report = caught.value.report
    assert (report.complete, report.decode_us.repeats) == (False, 1)
    assert markdown_of(frames_sheet(report)).endswith("- interrupted: less was measured than asked for\n")
    with pytest.raises(KeyboardInterrupt) as caught_at_once:
        measure_frames(lips, film, backend="ort", duration_s=0.1)
    assert not isinstance(caught_at_once.value, Interrupted)


def test_what_is_no_camera_no_film_or_no_region_is_refused(film: Path, lips: Path, bundle: Path) -> None:
    not_seen = "expected the student of a camera, got one of 'acc', of the kind series"
    not_decoded = "expected video that OpenCV can decode, got"
    cases = {
        f"{bundle}: {not_seen}; name a bundle whose first student sees": (bundle, film, None),
        f"{lips}: {not_decoded} a file of another kind, or a damaged one; check the path": (lips, lips, None),
        f"none.mp4: {not_decoded} no such file; check the path": (lips, Path("none.mp4"), None),
        "--region: expected a box inside frames of 24x16, got (20, 0, 12, 8); correct it": (lips, film, (20, 0, 12, 8)),
    }
    for message, (source, path, region) in cases.items():
        with pytest.raises(UsageError) as caught:
            measure_frames(source, path, region=region, backend="ort", duration_s=0.1)
        assert str(caught.value) == message


def test_the_command_prints_one_document(
    film: Path, lips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["frames", str(lips), str(film), "--backend", "ort", "--duration-s", "0.1"]
    monkeypatch.setattr("sys.argv", ["mmkd-bench", *arguments, "--region", "6,4,12,8", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["region"] == [6, 4, 12, 8]
    monkeypatch.setattr("sys.argv", ["mmkd-bench", *arguments, "--format", "csv"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()][:2] == ["step", "decode"]
    monkeypatch.setattr("sys.argv", ["mmkd-bench", *arguments, "--region", "6,4,12"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "mmkd-bench: --region: expected X,Y,WIDTH,HEIGHT in pixels, got '6,4,12'; write it so\n"
    assert "frames" in {command.name for command in make_app().registered_commands}
