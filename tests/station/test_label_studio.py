"""Uncertain windows go through a real Label Studio and come back."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
import venv

import numpy as np
import pytest

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_models.data.importing.kept_windows import kept_tasks
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.recipe import LabelRule
from mmkd_models.data.importing.window_files import import_windows
from mmkd_models.data.importing.window_labels import read_intervals
from mmkd_models.data.label_tasks import label_config, label_task
from tests.station.rig import free_port
from tests.station.test_uncertain import prediction, ring, window

TOKEN = "0123456789abcdef" * 2 + "01234567"
START_S = 1200  # on a busy machine
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Label Studio, from PATH or from the package registry."""
    if found := shutil.which("label-studio"):
        return found
    folder = tmp_path_factory.mktemp("label-studio")
    venv.create(folder, with_pip=True, symlinks=True)
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "label-studio"], check=True)
    return str(folder / "bin" / "label-studio")


class LabelStudio:
    """A server with its data in a folder."""

    def __init__(self, program, folder):
        self.log = folder / "server.log"
        self.port = free_port()
        account = ["--username", "a@example.com", "--password", "correct-horse", "--user-token", TOKEN]
        words = [program, "start", "--no-browser", "--port", str(self.port), *account]
        own = {"LABEL_STUDIO_BASE_DATA_DIR": str(folder), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true"}
        quiet = {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": ""}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, env=os.environ | own | quiet, start_new_session=True
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.ask("projects/")
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError(self.log.read_text())

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, path, content=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            data=None if content is None else json.dumps(content).encode(),
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())

    def project(self, interface, tasks):
        number = self.ask("projects/", {"title": "windows", "label_config": interface})["id"]
        assert self.ask(f"projects/{number}/import?return_task_ids=true", tasks)["task_count"] == len(tasks)
        return number

    def answer(self, number, answers):
        """Answer tasks, and return the export."""
        for task, result in zip(
            self.ask(f"projects/{number}/export?exportType=JSON&download_all_tasks=true"), answers, strict=True
        ):
            self.ask(f"tasks/{task['id']}/annotations/", {"result": result})
        return self.ask(f"projects/{number}/export?exportType=JSON")


def choice(label, sensor="acc"):
    return [{"from_name": "label", "to_name": sensor, "type": "choices", "value": {"choices": [label]}}]


def test_windows_are_labelled_in_label_studio_and_come_back(program, tmp_path):
    kept, labels = ring(tmp_path, station="press 1"), ["worn", "ok", "worn", "ok"]
    for number in range(4):
        kept.see(window(number), prediction(0.55), time_s=1_760_000_000 + 5.0 * number)
    kept.close()
    (tmp_path / "server").mkdir()
    server = LabelStudio(program, tmp_path / "server")
    try:
        tasks, interface = kept_tasks(tmp_path)
        first = server.project(interface, list(tasks))
        shown = server.ask(f"tasks/?project={first}&fields=all")["tasks"]
        assert [task["predictions"][0]["result"][0]["value"] for task in shown] == [{"choices": ["worn"]}] * 4

        specs = [
            ModalitySpec(name="vib", channels=("z",), rate_hz=100.0, samples=100),
            ModalitySpec(name="mic", channels=("0",), rate_hz=8000.0, samples=8000, kind="audio"),
            ModalitySpec(name="cam", channels=("gray",), rate_hz=10.0, samples=10, kind="video", height=24, width=32),
        ]
        windows = {spec.name: np.zeros(spec.shape, dtype=spec.dtype) for spec in specs}
        task = label_task(windows, specs, 1_760_000_000, group="M1", likely="worn", probability=0.5)
        second = server.project(label_config(specs, TaskSpec(labels=("ok", "worn"))), [task])

        (tmp_path / "export.json").write_text(json.dumps(server.answer(first, map(choice, labels))))
        (tmp_path / "next.json").write_text(json.dumps(server.answer(second, [choice("ok", "vib")])))
    finally:
        server.kill()
    dataset, _ = import_windows(tmp_path / "export.json", tmp_path / "data")
    windows = dataset.everything()
    assert windows.take(np.arange(4))["acc"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert [dataset.spec.task.labels[number] for number in windows.labels] == labels
    rule = LabelRule(files="next.json", format="label_studio", match={"machine": "group"})
    ((parts, interval),) = read_intervals(RecipeFolder(tmp_path), rule)
    assert (parts, interval.value, interval.start_ns) == ({"machine": "M1"}, "ok", 1_760_000_000 * 10**9)
    assert interval.end_ns - interval.start_ns == 10**9
