"""Several sensors of one station: the first in the bundle's order that lives answers, and says for whom."""

import json
import threading

import msgspec
import pytest

from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError
from tests.station.rig import end, feed, next_record, records_in, refusal, start

pytestmark = pytest.mark.usefixtures("quick_openings")
GYRO = ModalitySpec(name="gyro", channels=("a", "b", "c"), unit="deg/s", rate_hz=20.0, samples=40)


@pytest.fixture
def both_path(kit, acc, tmp_path):
    """A bundle of two students: of acc, and of gyro where acc is dead."""
    first, second = kit.parts(acc), kit.parts(GYRO, model=kit.model(GYRO), golden=kit.golden(GYRO), name="gyro")
    manifest = msgspec.structs.replace(first.manifest, models=(*first.manifest.models, *second.manifest.models))
    parts = type(first)(manifest=manifest, members={**second.members, **first.members})
    return parts.write(tmp_path / "both.edge")


def test_the_next_sensor_answers_while_the_first_is_silent_and_says_so(both_path, tmp_path):
    log = tmp_path / "gyro.csv"
    log.write_text("a,b,c\n" + "0,1,0\n" * 40)
    child = start(
        both_path, "--source", f"gyro=csv:{log}", "--source", "acc=stdin", "--follow", "--sink", "-", "--hop", "5",
        "--silence", "0.4",
    )  # fmt: skip
    told = next_record(child.stdout, kind="state", state="started")["reason"]
    assert told == f"made-up-acc: acc from stdin, then gyro from csv:{log}"
    ending, dead = threading.Event(), threading.Event()

    def turn():
        with log.open("a") as file:
            while not ending.wait(0.05):
                file.write("0,1,0\n")
                file.flush()

    def shake():
        while not ending.wait(0.1):
            if not dead.is_set():
                feed(child, "[1, 0, 0]\n")

    threads = [threading.Thread(target=one, daemon=True) for one in (turn, shake)]
    feed(child, json.dumps([[1, 0, 0]] * 20) + "\n")
    for thread in threads:
        thread.start()
    record = next_record(child.stdout, kind="result", status="ok")
    assert (record["modality"], record["label"], record["reason"]) == ("acc", "rest", "")
    dead.set()
    record = next_record(child.stdout, kind="result", modality="gyro")
    assert (record["status"], record["label"]) == ("degraded", "raise")
    assert record["reason"].startswith("'gyro' answers in place of acc: ")
    assert next_record(child.stdout, kind="result")["modality"] == "gyro"
    dead.clear()
    record = next_record(child.stdout, kind="result", modality="acc", status="ok")
    assert record["label"] == "rest"
    ending.set()
    for thread in threads:
        thread.join()
    output, _ = end(child)
    numbers = [json.loads(line)["number"] for line in output.splitlines()]
    assert numbers == sorted(set(numbers))


def test_a_sensor_that_was_never_there_is_stood_in_for(both_path, tmp_path, run_here):
    rows = "a,b,c\n" + "0,1,0\n" * 80
    (tmp_path / "gyro.csv").write_text(rows)
    (tmp_path / "acc.csv").write_text("x,y,z\n")
    output, _ = run_here(
        both_path, "--source", f"acc=csv:{tmp_path}/acc.csv", "--source", f"gyro=csv:{tmp_path}/gyro.csv",
        "--sink", "-", "--hop", "20", "--keep-uncertain", "1MB", "--uncertain-below", "1",
        "--keep-in", tmp_path / "kept",
    )  # fmt: skip
    results = records_in(output)
    assert [(one["modality"], one["status"], one["label"]) for one in results] == [("gyro", "degraded", "raise")] * 2
    (kept,) = (tmp_path / "kept").iterdir()  # of the sensor that answered
    assert kept.name.startswith("both_gyro-")
    assert {one["reason"] for one in results} == {"'gyro' answers in place of acc: no sample came yet"}


def test_stations_of_several_sensors_are_written_in_the_file(both_path, tmp_path, run_here):
    (tmp_path / "gyro.csv").write_text("a,b,c\n" + "0,1,0\n" * 40)
    (tmp_path / "acc.csv").write_text("accel,y,z\n" + "1,0,0\n" * 20)
    (tmp_path / "stations.toml").write_text(
        f'[[stations]]\nbundle = "{both_path}"\nbackend = "ort"\n'
        f'map = {{"acc.x" = "accel"}}\nsinks = ["jsonl:{tmp_path}/r.jsonl"]\n'
        f'source = {{gyro = "csv:{tmp_path}/gyro.csv", acc = "csv:{tmp_path}/acc.csv"}}\n'
    )
    run_here(tmp_path / "stations.toml")
    results = records_in((tmp_path / "r.jsonl").read_text())
    assert {one["label"] for one in results if one["modality"] == "acc"} >= {"rest"}


def test_sources_that_cannot_be_together_are_refused(both_path):
    both = "--source acc=stdin --source gyro=mqtt://h/t"
    for options, said in {
        "--source stdin --source gyro=stdin": "--source stdin: expected MODALITY=SOURCE, since there are several; "
        "write it so",
        "--source acc=stdin --source ecg=stdin": "station 'both': --source ecg=...: the bundle has no such modality; "
        "expected acc, gyro",
        f"{both} --map x=a": "--map x=a: expected MODALITY.CHANNEL beside several sources; write it so",
        f"{both} --follow": "--follow: expected a file that grows among the sources, got none; leave it out",
        "--source stdin --modality ecg": "station 'both': --modality ecg: the bundle has no such modality; "
        "expected acc, gyro",
        f"{both} --modality acc": "station 'both': --modality: cannot be combined with several sources; leave it out",
    }.items():
        assert refusal(UsageError, both_path, *options.split()) == said
