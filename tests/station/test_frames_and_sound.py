"""Sound, cameras and videos as sources: real files, real pipes, real processes."""

import base64
import http.server
import runpy
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, ModalitySpec, OpenOptions
from mmkd_edge.errors import UnavailableError, UsageError
from mmkd_edge.frames import mask_missing
from mmkd_edge.shadow import ShadowProcess
from mmkd_station.intake import Intake
from mmkd_station.protocols.base import Backoff
from mmkd_station.protocols.table import open_source

cv2 = pytest.importorskip("cv2")

from tests.edge.level_rig import LIPS, shares_of, write_film, write_lips  # noqa: E402
from tests.edge.said import said  # noqa: E402
from tests.station.rig import end, next_record, records_in, refusal, start, wanted  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_openings")
EXAMPLES = Path(__file__).parents[2] / "examples"
MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right", "back"), rate_hz=8000.0, samples=1600)


@pytest.fixture
def lips_path(tmp_path):
    return write_lips(tmp_path / "lips.edge")


def test_a_film_is_cut_and_answered_at_its_own_times(lips_path, tmp_path, run_here):
    levels = [40, 60, 80, 100, 160, 180, 200, 220]
    write_film(tmp_path / "film.avi", levels)
    source = f"video:{tmp_path / 'film.avi'}#region=6,4,12,8"
    output, errors = run_here(lips_path, "--source", source, "--sink", "-", "--hop", "4")
    found = records_in(output)
    assert [one["status"] for one in found] == ["ok", "ok"]
    assert [one["time_s"] for one in found] == pytest.approx([0.3, 0.7], abs=1e-3)
    for one, part in zip(found, (levels[:4], levels[4:]), strict=True):
        # Gray of equal blue, green and red is that level; float32 sums of 96 pixels.
        np.testing.assert_allclose(one["probabilities"], shares_of(float(np.mean(part))), atol=1e-4)
    assert "8 samples" in errors


def test_a_film_and_a_region_that_cannot_be_are_refused(lips_path, bundle_path, tmp_path):
    write_film(tmp_path / "film.avi", [0])
    (tmp_path / "none.avi").write_bytes(b"no film")
    path, film = tmp_path / "film.avi", f"video:{tmp_path / 'film.avi'}"
    cases = {
        f"{film}#region=20,4,12,8": "expected a region inside frames of 24x16; correct it",
        f"{film}#area=1": "expected #region=X,Y,WIDTH,HEIGHT in pixels, got #area=1; write it so",
        "stdin": "expected video for this student, got a source of samples; use cam:N, video:FILE",
        f"cam:{path}": f"expected a camera's number, its device file or an address, got '{path}'; read a film with "
        "video:FILE",
        "cam:/dev/video77": "expected a camera, got none that OpenCV opens; plug one in, or name another",
    }
    for source, expected in cases.items():
        said = refusal((UsageError, UnavailableError), lips_path, "--source", source)
        assert said == f"--source {source}: {expected}"
    none = {f"{tmp_path}/none.avi": "a file of another kind, or a damaged one", "away.avi": "no such file"}
    for file, got in none.items():
        assert refusal(UsageError, lips_path, "--source", f"video:{file}") == (
            f"{file}: expected video that OpenCV can decode, got {got}; check the path"
        )
    assert refusal(UsageError, bundle_path, "--source", film) == (
        f"--source {film}: expected samples for this student, got a source of video; use csv:FILE, stdin, "
        "mqtt://HOST/TOPIC, mqtts://HOST/TOPIC, kafka://HOST/TOPIC, opcua://HOST, modbus://HOST, "
        "postgresql://HOST/DATABASE?table=NAME, wav:FILE, pcm, recordings:DATASET"
    )
    assert refusal(UsageError, lips_path, "--source", film, "--map", "gray=r") == (
        "station 'lips': --map: expected none for 'lips', which is video; leave it out"
    )


def test_only_a_file_that_grows_is_followed(bundle_path):
    for source in ("stdin", "wav:a.wav", "mqtt://h/t"):
        assert refusal(UsageError, bundle_path, "--source", source, "--follow") == (
            f"--follow: expected csv:FILE, a file that grows, got --source {source}; leave it out"
        )


class Camera(http.server.ThreadingHTTPServer):
    """A camera in the network: JPEG after JPEG, as such cameras send them, until it is unplugged."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Frames)
        self.unplugged = threading.Event()
        self.takes: str | None = None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def unplug(self):
        self.unplugged.set()
        self.shutdown()
        self.server_close()


class _Frames(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        assert isinstance(server, Camera)
        if server.takes not in (None, self.headers.get("Authorization")):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", np.full((16, 24, 3), 200, np.uint8))[1].tobytes()
        try:
            while not server.unplugged.wait(0.1):
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                self.wfile.write(jpeg + b"\r\n")
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def camera():
    found = Camera()
    yield found
    found.unplug()


def test_cameras_give_frames_as_the_student_takes_them_or_one_clear_error(tmp_path, monkeypatch):
    write_film(tmp_path / "film.avi", [40, 220])
    frames = runpy.run_path(str(EXAMPLES / "live_camera.py"))["frames"]
    colours = msgspec.structs.replace(LIPS, channels=("red", "green", "blue"))
    for modality in (LIPS, colours):
        found = list(frames(str(tmp_path / "film.avi"), (6, 4, 12, 8), modality))
        assert [when for when, _ in found] == pytest.approx([0.0, 0.1])
        assert [frame.shape for _, frame in found] == [modality.shape[1:]] * 2
        assert [int(frame.mean()) for _, frame in found] == [40, 220]
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Capture(0))
    assert said(UnavailableError, lambda: of_camera("0")) == (
        "--source cam:0: expected frames, got none; see whether another program has the camera"
    )


def of_camera(place):
    return open_source(f"cam:{place}", wanted(LIPS, frame=(8, 12, 1)))


def test_a_camera_takes_its_password_from_a_file_and_repeats_it_nowhere(camera, tmp_path):
    (tmp_path / "camera").write_text("eve:s3cret @/\n")
    camera.takes = "Basic " + base64.b64encode(b"eve:s3cret @/").decode()
    address = f"http://127.0.0.1:{camera.server_address[1]}/?channel=1"
    with pytest.raises(UnavailableError):
        of_camera(address)
    source = of_camera(f"{address}&credentials={tmp_path}/camera")
    intake = Intake(most=10, may_drop=False)
    delivery = next(iter(source.deliveries(intake)))
    assert abs(int(delivery.rows.mean()) - 200) <= 1
    assert intake.notes() == [(True, address)]


def test_a_password_in_the_text_is_refused_without_being_repeated(lips_path, bundle_path):
    for text in ("cam:rtsp://eve:pw@host/1", "cam:rtsp://eve:p#w@h", "cam:rtsp://eve:p/?w@h", "video:rtsp://e:p@h"):
        for path in (lips_path, bundle_path):  # the latter takes no frames
            assert refusal(UsageError, path, "--source", text) == (
                f"{text.partition('://')[0]}://...: expected no password in the text, where others see it; use "
                "?credentials=FILE"
            )


class Capture:
    """A camera that opens, and gives so many gray frames of one size."""

    def __init__(self, frames, height=16, width=24):
        self._frames, self._shape = frames, (height, width, 3)

    def read(self):
        self._frames -= 1
        return (True, np.zeros(self._shape, np.uint8)) if self._frames >= 0 else (False, None)

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return True

    def set(self, *_):
        pass

    def release(self):
        pass


def test_a_pipeline_is_opened_by_gstreamer(monkeypatch):
    asked = []

    class Pipeline(Capture):
        def __init__(self, *arguments):
            super().__init__(2)
            asked.append(arguments)

    monkeypatch.setattr(cv2, "VideoCapture", Pipeline)
    pipeline = "nvarguscamerasrc ! nvvidconv ! videoconvert ! appsink"
    source = of_camera(f"{pipeline}#region=6,4,12,8")
    delivery = next(iter(source.deliveries(Intake(most=10, may_drop=False))))
    assert delivery.rows.shape == (1, 8, 12, 1)
    assert asked == [(pipeline, cv2.CAP_GSTREAMER)] * 2

    monkeypatch.setattr(Pipeline, "isOpened", lambda self: False)
    assert said(UnavailableError, lambda: of_camera(pipeline)) == (
        f"--source cam:{pipeline}: expected a camera, got none that OpenCV opens; see that OpenCV was built with "
        "GStreamer, and gst-launch-1.0 runs it"
    )


def test_a_camera_that_comes_back_with_smaller_frames_says_so(monkeypatch):
    captures = iter([Capture(1), Capture(2), Capture(1, height=8)])
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: next(captures))
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.0)
    source, intake = of_camera("0#region=6,4,12,8"), Intake(most=10, may_drop=False)
    with pytest.raises(RuntimeError):  # the fourth capture is not there
        for _ in source.deliveries(intake):
            pass
    assert [reason for _, reason in intake.notes()] == [
        "0",
        "0: the camera gives no frames",
        "0",
        "0: the camera gives frames of 24x8, which the region is not inside of",
    ]


def test_a_region_of_other_than_four_numbers_is_one_clear_error():
    for region in ("²,1,2,3", "1,2,3", "1,2,-3,4", ""):
        assert said(UsageError, of_camera, f"0#region={region}") == (
            f"--source cam:0#region={region}: expected #region=X,Y,WIDTH,HEIGHT in pixels, got #region={region}; "
            "write it so"
        )


@pytest.mark.slow
def test_a_camera_that_goes_away_is_missing_and_is_opened_again(lips_path, camera):
    port = camera.server_address[1]
    child = start(
        lips_path, "--source", f"cam:http://127.0.0.1:{port}/", "--sink", "-", "--hop", "2", "--silence", "0.5"
    )
    next_record(child.stdout, kind="state", state="connected")
    record = next_record(child.stdout, kind="result", status="ok")
    np.testing.assert_allclose(record["probabilities"], shares_of(200.0), atol=0.01)  # a JPEG is a level off
    assert 0 <= record["input_age_s"] < 5
    camera.unplug()
    next_record(child.stdout, kind="state", state="disconnected")
    next_record(child.stdout, kind="result", status="invalid")
    again = Camera(port)
    next_record(child.stdout, kind="state", state="connected")
    next_record(child.stdout, kind="result", status="ok")
    end(child)
    again.unplug()


def test_sound_is_read_from_a_pipe(kit, tmp_path):
    bundle = kit.parts(MIC, model=kit.model(MIC), golden=kit.golden(MIC), name="mic").write(tmp_path / "mic.edge")
    wave = (np.sin(np.arange(4800) * 0.3) * 16384).astype("<i2")
    child = start(bundle, "--source", "pcm", "--sink", "-", "--hop", "1600")
    for part in (wave.tobytes()[:1001], wave.tobytes()[1001:]):  # a block may end inside a sample
        child.stdin.buffer.write(part)
        child.stdin.buffer.flush()
        time.sleep(0.05)
    record = next_record(child.stdout, kind="result", status="ok")
    assert (record["modality"], record["missing_fraction"]) == ("mic", 0.0)
    np.testing.assert_allclose(record["probabilities"], kit.answer(wave.reshape(1600, 3) / 32768)[1], atol=1e-5)
    end(child)


def test_frames_that_are_missing_are_missing_for_the_new_bundle_too(lips_path):
    frames = np.random.default_rng(2).integers(0, 255, (4, 8, 12, 1), dtype=np.uint8)
    with EdgePredictor.open(lips_path, backend="ort") as predictor:
        process = ShadowProcess(predictor, str(lips_path), OpenOptions(backend="ort"))
        process.start()
        for missing in (0, 1, 4):
            window = mask_missing(frames, np.arange(4) < missing)
            answer, expected = process.ask("lips", window)[0], predictor.predict(window)
            assert answer.to_dict() == expected.to_dict()
            assert answer.missing_fraction == missing / 4
        process.close()
