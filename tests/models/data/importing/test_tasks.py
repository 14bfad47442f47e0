"""Several labels at once, numbers, and labels of annotation tools, from a recipe."""

import json
import shutil

import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_app.experiments import ComparisonOptions, requested_plan
from mmkd_app.training.recipes import window_lines
from mmkd_edge.derive import derive_batch
from mmkd_edge.errors import DatasetError
from mmkd_models.data import open_dataset
from mmkd_models.data.importing.patterns import RecipeFolder
from mmkd_models.data.importing.recipe import LabelRule, read_recipe
from mmkd_models.data.importing.window_labels import read_intervals
from tests.edge.said import said
from tests.models.data.importing.conftest import START_S, add_columns, by_machine, refusal, run

FILES = 'files = "{machine}/states.csv"'


def labels_by_machine(plant):
    return {name: labels for name, (_, labels) in by_machine(plant).items()}


def write_states(plant, *lines, machine=None):
    """Intervals in seconds from each machine's start."""
    for number in range(6) if machine is None else [machine]:
        start = START_S + 1000 * number
        rows = [line.split(",") for line in lines]
        text = [f"{start + float(begin)},{start + float(end)},{label}" for begin, end, label in rows]
        (plant / f"M{number}" / "states.csv").write_text("\n".join(["start,end,label", *text]) + "\n")


def test_intervals_of_several_labels_overlap_and_cover_a_window_by_their_share(plant, recipe):
    recipe((FILES, f'{FILES}\ntask = "multi_label"'))
    # Windows of 1 s: hot is on in 0 to 3.5, worn in 2 to 5 and, together with hot, in 8 to 9.
    write_states(plant, "0,3.5,hot", "2,5,worn", "8,9,hot+worn", "9,10,")
    report = run(plant)
    task = report.dataset.spec.task
    assert (task.kind, task.labels) == ("multi_label", ("hot", "worn"))
    # The fourth window is half hot: neither on nor off by a purity of 0.8, and left out.
    wanted = [[1, 0], [1, 0], [1, 1], [0, 1], [0, 0], [0, 0], [0, 0], [1, 1], [0, 0]]
    assert labels_by_machine(plant) == {f"M{machine}": wanted for machine in range(6)}
    assert report.dataset.spec.left_out == {"without a label": 6}
    assert window_lines(report)[1:3] == ["  hot: train 16, valid 4, test 4", "  worn: train 12, valid 3, test 3"]


def test_a_recording_without_a_line_has_no_labels_yet(plant, recipe):
    recipe((FILES, f'{FILES}\ntask = "multi_label"\nunlabelled = "keep"\nignore = ["?"]'))
    recipe(('group = "machine"', 'group = "machine"\nvalid = ["M1"]\ntest = ["M2"]'))
    write_states(plant, "0,5,hot", "5,6,?")
    (plant / "M0" / "states.csv").write_text("start,end,label\n")
    run(plant)
    found = labels_by_machine(plant)
    assert found["M0"] == [[255]] * 10
    assert found["M3"] == [[1]] * 5 + [[255]] + [[0]] * 4


def test_a_text_column_names_all_labels_that_are_on(plant, recipe):
    recipe((FILES, 'column = "state"\ntask = "multi_label"\nseparator = "|"\nclasses = ["worn", "hot"]'))
    add_columns(plant, state=lambda row, machine: ["hot|worn", "", "worn"][row // 10 % 3])
    run(plant)
    assert labels_by_machine(plant)["M1"] == ([[1, 1], [0, 0], [1, 0]] * 4)[:10]


def test_a_table_has_a_text_for_each_recording(plant, recipe):
    (plant / "table.csv").write_text("machine,state\nM0,\nM1,hot\nM2,\nM3,hot + worn\nM4,worn\nM5,hot+worn\n")
    rule = 'table = "table.csv"\nmatch = {machine = "machine"}\ntask = "multi_label"\n'
    recipe((FILES, rule + 'label = "state"'))
    run(plant)
    found = labels_by_machine(plant)
    assert (found["M2"], found["M3"], found["M4"]) == ([[0, 0]] * 10, [[1, 1]] * 10, [[0, 1]] * 10)


def test_the_number_of_a_window_is_the_mean_of_its_column(plant, recipe, capsys):
    recipe((FILES, 'column = "wear"\ntask = "regression"\nunit = "um"\npurity = 0.6'))
    add_columns(plant, wear=lambda row, machine: "" if row in (0, 1, 2, 10, 11, 12, 13, 14) else 10 * machine + row)
    recipe(('time = "time"', 'time = "time"\nscale = 2.0'))  # of the samples, not of the label
    report = run(plant)
    spec = report.dataset.spec
    assert (spec.task.kind, spec.task.labels, spec.task.unit) == ("regression", ("wear",), "um")
    assert spec.modality("acc").channels == ("ax", "ay")
    # Rows 3 to 9 of the first window have a mean of 6; half of the second window is missing.
    wanted = [6.0, *(second * 10 + 4.5 for second in range(2, 10))]
    for machine, found in labels_by_machine(plant).items():
        assert found == [10 * int(machine[1]) + one for one in wanted]
    assert [sensor.name for sensor in report.sensors] == ["acc"]
    told = [line for line in window_lines(report) if "target" in line]
    valid = report.dataset.split("valid").labels
    assert told[1] == f"  target wear in um, valid: {valid.min():.4g} to {valid.max():.4g}, mean {valid.mean():.4g}"
    for command in ("check", "describe"):
        with pytest.raises(SystemExit, match="0"):
            run_data([command, str(plant / "out")])
    assert "wear in um" in capsys.readouterr().out


def test_numbers_of_intervals_and_of_tables(plant, recipe):
    recipe((FILES, f'{FILES}\ntask = "regression"\ntarget = "load"'))
    write_states(plant, "0,3,0.5", "3,6.5,-2", "6.5,10,1e3")
    assert run(plant).dataset.spec.task.labels == ("load",)
    assert labels_by_machine(plant)["M5"] == [0.5] * 3 + [-2] * 3 + [1000] * 3
    (plant / "table.csv").write_text("machine,load\n" + "".join(f"M{n},{n / 4}\n" for n in range(6)))
    shutil.rmtree(plant / "out")
    recipe((FILES, 'table = "table.csv"\nmatch = {machine = "machine"}\nlabel = "load"'))
    run(plant)
    assert labels_by_machine(plant) == {f"M{n}": [n / 4] * 10 for n in range(6)}


def test_everything_or_one_label_is_normal_running(plant, recipe):
    recipe((FILES, 'task = "normal"'))
    spec = run(plant).dataset.spec
    assert (spec.task.kind, spec.task.labels) == ("normal", ("normal",))
    assert labels_by_machine(plant) == {f"M{n}": [0] * 10 for n in range(6)}
    shutil.rmtree(plant / "out")
    recipe(('task = "normal"', f'{FILES}\ntask = "normal"\nclasses = ["ok", "worn"]'))
    write_states(plant, "0,5,ok", "5,8,worn", "8,10,ok")
    report = run(plant)
    assert report.dataset.spec.task.labels == ("ok", "worn")
    assert labels_by_machine(plant) == {f"M{n}": [0] * 5 + [1] * 3 + [0] * 2 for n in range(6)}
    assert "  worn: train 12, valid 3, test 3" in window_lines(report)


@pytest.mark.parametrize(
    "keys",
    [
        'classes = ["1", "2"]\nignore = ["3"]',
        'classes = ["1.0", "2.0"]\nignore = ["3.0"]',
        'rename = {"1" = "ok", "2" = "worn", "3" = "?"}\nclasses = ["ok", "worn"]\nignore = ["?"]',
        'rename = {"1.0" = "ok", "2.0" = "worn", "3.0" = "?"}\nclasses = ["ok", "worn"]\nignore = ["?"]',
    ],
)
@pytest.mark.parametrize("written", [("1", "2", "3"), ("1.0", "2.00", "3.0")])
def test_two_is_two_point_zero_for_every_key_of_labels(plant, recipe, keys, written):
    recipe((FILES, f"{FILES}\n{keys}"))
    ok, worn, unknown = written
    write_states(plant, f"0,4,{ok}", f"4,9,{worn}", f"9,10,{unknown}")
    run(plant)
    assert labels_by_machine(plant)["M3"] == [0] * 4 + [1] * 5


CURE = "correct it, add it to 'labels.ignore', or set labels.task = 'classification'"
WRONG = {
    f'{FILES}\ntask = "normal"': "DIR/recipe.toml: 'labels.classes': missing; name the label of normal running first,"
    " then those of known faults",
    f'{FILES}\ntask = "regression"': f"DIR/M0/states.csv:3: expected a number as label, got 'worn'; {CURE}",
    f'{FILES}\ntask = "regression"\n': f"DIR/M0/states.csv:2: expected a number as label, got 'inf'; {CURE}",
    f'{FILES}\ntask = "multi_label"': "DIR/M0/states.csv:3: expected intervals apart, got 'a' that shares 1 s with 'a'"
    " of DIR/M0/states.csv:2; correct one of them",
    f'{FILES}\ntask = "multi_label"\nclasses = ["a", "b"]': "DIR/M0/states.csv:2: expected a label of a, b, got 'c';"
    " correct it with 'labels.rename', or add it to 'labels.classes' or 'labels.ignore'",
    'column = "wear"\ntask = "regression"': "'labels.column': no source has a column 'wear'; correct it (a tag of a"
    " tall table cannot be a label)",
    'column = "note"\ntask = "regression"': "DIR/M0/acc.csv:3: column 'note': expected a number, got 'x1' (99 such from"
    " there on); correct it, or add 'x1' to 'null' if it means missing",
    f'{FILES}\ntask = "regression"\nclasses = ["1", "2"]': "DIR/recipe.toml: 'labels.classes': not for task ="
    " 'regression', got ['1', '2']; remove them",
    f'{FILES}\nunit = "um"': "DIR/recipe.toml: 'labels.unit': only for task = 'regression', got task ="
    " 'classification'; remove one of them",
    f'{FILES}\ntask = "ranking"': "DIR/recipe.toml: 'labels.task': unknown value 'ranking'; choose one of"
    " classification, multi_label, regression, normal; docs/your-own-data.md lists every key",
    "path = 3,5": "DIR/recipe.toml: expected TOML, got 'path = 3,5' in line 9; write the number with a point: 3.5",
}
STATES = {
    "got 'worn'": ("0,5,1", "5,10,worn"),
    "got 'inf'": ("0,5,inf",),
    "shares 1 s": ("0,5,a+b", "4,10,a"),
    "got 'c'": ("0,5,a+c",),
}


@pytest.mark.parametrize(("rule", "says"), WRONG.items())
def test_labels_that_do_not_fit_the_task_are_told_whole(plant, recipe, rule, says):
    add_columns(plant, note=lambda row, machine: f"x{row}" if row else 7)
    recipe((FILES, rule), ('time = "time"', 'time = "time"\nchannels = ["ax", "ay"]\nrate_hz = 10.0'))
    lines = [lines for word, lines in STATES.items() if word in says] or [("0,5,1", "5,10,2")]
    write_states(plant, *lines[0])
    first = refusal(plant).split("\n  - ")
    assert (first[0] if len(first) == 1 else first[1]) == says


def test_a_recipe_names_cheaper_sensors_that_are_compared_and_that_no_teacher_sees(plant, recipe, capsys):
    recipe(("[windows]", '[dataset]\nderived = ["acc@5Hz", "acc[ay]"]\n[windows]'))
    dataset = run(plant).dataset
    assert json.loads((plant / "out" / "dataset.json").read_text())["derived"] == ["acc@5Hz", "acc[ay]"]
    assert [sensor.name for sensor in dataset.spec.sensors] == ["acc", "acc__5Hz", "acc__c1"]
    recorded, slow = (dataset.split("train").with_modalities([name]).take([3]) for name in ("acc", "acc@5Hz"))
    assert np.array_equal(slow["acc__5Hz"], derive_batch(recorded["acc"], dataset.spec.modality("acc__5Hz")))
    plan = requested_plan(dataset, ComparisonOptions())
    assert plan.sensors == ("acc", "acc__5Hz", "acc__c1")
    assert plan.teacher.modalities == ("acc",)
    with pytest.raises(SystemExit, match="0"):
        run_data(["describe", str(plant / "out")])
    assert "derived sensors: acc@5Hz, acc[ay]" in capsys.readouterr().out.splitlines()


def test_a_recipe_or_a_dataset_cannot_name_sensors_that_cannot_be_derived(plant, recipe):
    out = run(plant, "whole").dataset.path
    document, old = json.loads((out / "dataset.json").read_text()), "[windows]"
    for derived, says in {
        '"acc@50Hz"': "derived sensor 'acc@50Hz': expected a rate up to the recorded 10 Hz, got 50 Hz; lower it",
        '"gyro@5Hz"': "expected texts such as acc@25Hz,8bit, of the sensors acc, got 'gyro@5Hz'; correct it",
        '"acc@5Hz", "acc__5Hz"': "'acc@5Hz' is there twice; name each once",
    }.items():
        new = f"[dataset]\nderived = [{derived}]\n[windows]"
        recipe((old, new))
        old = new
        assert refusal(plant) == f"'dataset.derived': {says}"
        (out / "dataset.json").write_text(json.dumps(document | {"derived": json.loads(f"[{derived}]")}))
        assert said(DatasetError, open_dataset, out) == f"dataset {out}: dataset.json: 'derived': {says}"


def task(number, name, *results):
    return {
        "id": number,
        "file_upload": f"0a1b2c3d-{name}.csv",
        "data": {"csv": f"/data/upload/1/0a1b2c3d-{name}.csv"},
        "annotations": [{"id": 10 + number, "result": list(results)}],
    }


def drawn(label, start, end, kind="timeserieslabels"):
    return {"id": "r1", "type": kind, "value": {"start": start, "end": end, kind: [label]}}


def of(tmp_path, content, **rule):
    (tmp_path / "labels.json").write_text(json.dumps(content))
    found = read_intervals(RecipeFolder(tmp_path), LabelRule(files="labels.json", **rule))
    return [(parts, item.start_ns / 1e9, item.end_ns / 1e9, item.value) for parts, item in found]


def test_label_studio_labels_a_plant(plant, recipe):
    starts = {f"M{machine}": START_S + 1000 * machine for machine in range(6)}
    tasks = [
        task(number, name, drawn("ok", start, start + 5), drawn("worn", start + 5, start + 10))
        for number, (name, start) in enumerate(starts.items())
    ]
    (plant / "export.json").write_text(json.dumps(tasks))
    recipe((FILES, 'files = "export.json"\nformat = "label_studio"\nmatch = {machine = "file"}'))
    run(plant)
    assert labels_by_machine(plant) == dict.fromkeys(starts, [0] * 5 + [1] * 5)


def test_label_studio_counts_frames_of_video_from_one(tmp_path):
    value = {"ranges": [{"start": 1, "end": 25}], "timelinelabels": ["bin"]}
    tasks = [task(0, "bbaf2n", {"id": "v", "type": "timelinelabels", "value": value})]
    rule = {"format": "label_studio", "time_unit": "s", "match": {"clip": "file"}}
    assert of(tmp_path, tasks, rate_hz=25.0, **rule) == [({"clip": "bbaf2n"}, 0.0, 1.0, "bin")]
    assert said(DatasetError, of, tmp_path, tasks, **rule) == (
        f"{tmp_path / 'labels.json'}: expected 'labels.rate_hz', got none; this file counts frames, say how many a"
        " second"
    )


def answered(kind, answer, **data):
    """A task of this project, with an answer for the whole of it."""
    return {"id": 7, "data": data, "annotations": [{"result": [{"type": kind, "value": {kind: answer}}]}]}


def test_an_answer_for_a_whole_task_counts_from_its_start_to_its_end(tmp_path):
    times = {"start": "2025-10-09T08:53:20+00:00", "end": "2025-10-09T08:53:24.5+00:00", "group": "M.1"}
    rule = {"format": "label_studio", "match": {"machine": "group"}}
    found = [({"machine": "M.1"}, 1_760_000_000.0, 1_760_000_004.5, "worn")]
    assert of(tmp_path, [answered("choices", ["worn"], **times)], **rule) == found
    assert of(tmp_path, [answered("number", 12.5, **times)], task="regression", **rule)[0][3] == "12.5"
    assert of(tmp_path, [answered("choices", ["hot", "worn"], **times)], task="multi_label", **rule)[0][3] == "hot+worn"
    assert of(tmp_path, [answered("choices", ["worn"], csv="a.csv")], format="label_studio") == []  # of no time


def test_labels_of_other_people_tools_or_forms_are_refused(tmp_path, plant, recipe):
    twice = task(3, "x")
    twice["annotations"] *= 2
    assert said(DatasetError, of, tmp_path, [twice], format="label_studio", time_unit="s") == (
        f"{tmp_path / 'labels.json'}: task 3: expected one annotation, got 2; keep one in the export"
    )
    assert said(DatasetError, of, tmp_path, [{"id": 1}], format="label_studio") == (
        f"{tmp_path / 'labels.json'}: expected an export of Label Studio in JSON, got one without 'annotations';"
        " export it again"
    )
    recipe((FILES, 'files = "export.json"'))
    assert said(DatasetError, read_recipe, plant / "recipe.toml") == (
        f"{plant / 'recipe.toml'}: 'labels.format': a JSON file is read as 'label_studio'; set it, or name other files"
    )
