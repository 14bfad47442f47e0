"""`mmkd-edge commission`: a student of normal data is fitted to one machine, and answers as before without it."""

import json

import numpy as np
import pytest

from mmkd_app.commands.edge import run_edge
from mmkd_edge import EdgePredictor, UsageError, read_reference
from mmkd_edge.bundle.reference import write_reference
from mmkd_edge.install.slots import install
from mmkd_edge.predict.commissioning import block_rates
from mmkd_edge.predict.student import commissioned_entry
from mmkd_edge.testing import fake_entry
from mmkd_export.inspect.files import inspect_file
from tests.edge.said import said
from tests.export.students import ACC, export_student, make_normal_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_exports):
    """A bundle, and four minutes of a machine that is half as loud again as those of training."""
    folder = tmp_path_factory.mktemp("commission")
    student = make_normal_student()
    export_student(folder, student, name="s")
    rows = 1.5 * np.nan_to_num(student.carried.windows[:188]).reshape(-1, 3)
    table = np.column_stack([np.arange(len(rows)) / 50, rows])
    np.savetxt(folder / "log.csv", table, delimiter=",", header="time,x,y,z", comments="", fmt="%.6g")
    return folder


@pytest.fixture(scope="module")
def reference_file(folder):
    """What was fitted to a result every two seconds."""
    file = folder / "every-two-seconds.json"
    run_edge(["commission", str(folder / "s.edge"), "--source", f"csv:{folder / 'log.csv'}", "--hop", "100", str(file)])
    return file


def test_results_come_after_so_many_samples(reference_file):
    reference = read_reference(reference_file)
    assert reference.normal.windows == 121  # of 241 every second
    assert reference.normal.hours == pytest.approx(121 / 1800)


def unknown(path, **options):
    with EdgePredictor.open(path, **options) as predictor:
        rows = np.loadtxt(path.with_name("log.csv"), delimiter=",", skiprows=1)[:, 1:]
        found = [one.status for one in predictor.stream(hop=50).push(rows.astype(np.float32))]
    return found[1:].count("unknown") / len(found[1:])


def test_a_machine_gets_its_own_scores_and_the_bundle_stays(folder, capsys):
    bundle, file = folder / "s.edge", folder / "machine.json"
    before = bundle.read_bytes()
    run_edge(["commission", str(bundle), "--source", f"csv:{folder / 'log.csv'}", "--minutes", "30", str(file)])
    output, errors = capsys.readouterr()
    reference = read_reference(file)
    assert reference.normal
    assert reference.commissioned
    assert (reference.mean, reference.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (reference.normal.groups, reference.normal.level, reference.normal.windows) == (20, 0.05, 241)
    assert reference.normal.hours == pytest.approx(241 / 3600)
    assert reference.commissioned.source == f"csv:{folder / 'log.csv'}"
    assert reference.commissioned.unlike > 0.5
    lines = output.splitlines()
    limit = reference.normal.scores[-12]  # 11 larger ones: (1 + 11) / 242
    assert lines[0].startswith(f"unknown at a p-value of at most 0.05, a score above {limit:.4g}: ")
    assert lines[0].endswith(" of 20 blocks have more than 10%; 241 windows, 0.0669 h")
    assert lines[1] == (
        f"wrote {file}, without which the bundle answers as before, and {file}.md; next: mmkd-run {bundle} --source "
        f"csv:{folder / 'log.csv'} --reference {file}"
    )
    facts = reference.commissioned
    expected = {
        "student": f"{facts.model_id}, modality acc",
        "recorded": f"from csv:{folder / 'log.csv'}, {facts.minutes:.3g} minutes until {facts.ended_utc}",
        "normal": lines[0],
        "unlike": f"{facts.unlike:.0%} of these windows are unknown by the bundle's own scores",
        "undo": "open the bundle without this file: it answers as before",
    }
    card = [f"- {name}: {value}" for name, value in expected.items()]
    assert (folder / "machine.json.md").read_text().splitlines() == ["# machine", "", *card]
    assert inspect_file(file) == {"kind": "reference", "modality": "acc"} | expected
    install(folder / "state", bundle, prove=lambda path: None)
    write_reference(folder / "state" / "press 1.json", reference)
    run_edge(["list", str(folder / "state")])
    line = "press 1.json: " + "; ".join(f"{name} {value}" for name, value in expected.items())
    assert capsys.readouterr().out.splitlines()[1:] == [line]
    run_edge(["status", str(folder / "state"), "--json"])
    assert json.loads(capsys.readouterr().out)["machines"] == {"press 1.json": expected}
    run_edge(["status", str(folder / "state")])
    assert capsys.readouterr().out.splitlines()[2:] == [line]
    assert "of the windows are unlike the normal ones of training: does the machine run normally?" in errors
    assert bundle.read_bytes() == before
    assert unknown(bundle) > 0.5
    assert unknown(bundle, reference=file) == pytest.approx(0.05, abs=0.02)


def test_rates_of_blocks_are_of_p_values_among_the_others():
    # Of the last block's p-values only that of 9 is at most a fifth: (1 + 0) / (1 + 6); of 6.5 it is (1 + 1) / 7.
    scores = np.array([1.0, 4.0, 7.0, 2.0, 5.0, 3.0, 6.5, 9.0, 0.5])
    assert block_rates(scores, blocks=3, level=0.2).tolist() == [0.0, 0.0, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--minutes", "1"),
            (
                "csv:{log}: expected 100 windows of normal running with an answer, or more, got 59 in 1 minutes; "
                "record longer (--minutes), or mend the sensor"
            ),
        ),
        (("--minutes", "0"), "--minutes 0: expected a number above 0; for instance 30"),
        (("--map", "x"), "--map x: expected CHANNEL=COLUMN, got no '='; write it like ax=accel.x"),
    ],
)
def test_what_cannot_be_fitted_is_refused(folder, arguments, expected):
    source, output = f"csv:{folder / 'log.csv'}", folder / "refused.json"
    words = ["commission", str(folder / "s.edge"), "--source", source, *arguments, str(output)]
    assert said(UsageError, run_edge, words) == expected.format(log=folder / "log.csv")
    assert not output.exists()


def test_a_classifier_is_refused(bundle_path):
    words = ["commission", str(bundle_path), "m.json", "--source", "csv:log.csv"]
    assert said(UsageError, run_edge, words) == (
        f"{bundle_path}: expected a student of normal data, got one of classes rest, raise, turn; only scores of "
        "normal running can be fitted to a machine"
    )


def test_a_reference_of_another_student_is_refused(folder, reference_file):
    document = json.loads(reference_file.read_bytes())
    document["commissioned"] |= {"student_sha256": "5" * 64, "model_id": "other"}
    (folder / "other.json").write_text(json.dumps(document))
    assert said(UsageError, EdgePredictor.open, folder / "s.edge", reference=folder / "other.json") == (
        "reference of modality 'acc': expected one of this student, got one of other; run mmkd-edge commission again "
        "with this bundle"
    )
    classifier = fake_entry(modality=ACC, labels="ab")
    assert said(UsageError, lambda: commissioned_entry(classifier, read_reference(reference_file))) == (
        "reference of modality 'acc': expected no normal running for classes a, b; open the bundle without it"
    )
    del document["commissioned"]
    (folder / "half.json").write_text(json.dumps(document))
    assert said(UsageError, read_reference, folder / "half.json") == (
        f"{folder / 'half.json'}: not a reference: normal: expected it together with 'commissioned', got one of them; "
        "make it again with mmkd-data reference"
    )
