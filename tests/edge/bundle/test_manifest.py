from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge import Manifest, ManifestError, ModalitySpec, TaskSpec, decode_manifest, encode_manifest
from mmkd_edge.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_WINDOW_VALUES,
    FileEntry,
    graph_inputs,
    graph_outputs,
    member_files,
    step_inputs,
    step_outputs,
)
from mmkd_edge.errors import printable

AGAIN = "; export the bundle again"
NO_HASH = "expected str matching regex '^[0-9a-f]{64}$'"

HIDDEN = ["\x1b[2Jok", "ok\nkind  bundle, every byte verified", "a\x85b", "a\u202eb", "a\u2028b"]


@pytest.fixture
def manifest(kit: Any) -> Manifest:
    made: Manifest = kit.parts(kit.modality).manifest
    return made


@pytest.fixture
def document(manifest: Manifest) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(encode_manifest(manifest))
    return loaded


def message(document: object) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ManifestError) as caught:
        decode_manifest(data)
    return str(caught.value)


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with the value at `path` ('models.0.name') replaced; `...` removes it."""
    copy: Any = json.loads(json.dumps(document))
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    node = copy
    for step in parents:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    result: dict[str, Any] = copy
    return result


def test_a_manifest_survives_its_file(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_the_file_is_readable_and_ends_with_a_line(manifest: Manifest) -> None:
    text = encode_manifest(manifest).decode()
    assert text.startswith('{\n  "format_version": 1,\n  "model_id": "made-up-acc",\n')
    assert text.endswith("}\n")


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10).filter(lambda text: printable(text) == text)
finite = st.floats(-1e30, 1e30)


@settings(max_examples=60, deadline=None)
@given(
    name=names,
    channels=st.lists(texts, min_size=1, max_size=4, unique=True),
    labels=st.lists(texts, min_size=2, max_size=4, unique=True),
    rate_hz=st.floats(1e-3, 1e6),
    samples=st.integers(1, 1000),
    limits=st.none() | st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]),
    score=finite,
    licence=st.text(st.characters(codec="utf-8")),
    tools=st.dictionaries(texts, texts, max_size=3),
)
def test_whatever_a_manifest_says_survives_its_file(kit: Any, **facts: Any) -> None:
    modality = ModalitySpec(
        name=facts["name"],
        channels=tuple(facts["channels"]),
        rate_hz=facts["rate_hz"],
        samples=facts["samples"],
        range=facts["limits"],
    )
    task = TaskSpec(labels=tuple(facts["labels"]))
    parts = kit.parts(kit.modality).with_model(
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task),
        validation_score=facts["score"],
    )
    manifest = msgspec.structs.replace(parts.manifest, licence=facts["licence"], tools=facts["tools"])
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_the_members_come_in_their_stored_order(manifest: Manifest) -> None:
    assert [entry.file for entry in member_files(manifest)] == [
        "report.json",
        "README.md",
        "acc/model.fp32.onnx",
        "acc/golden.npz",
    ]


def test_a_newer_format_asks_for_an_upgrade_before_anything_else(document: dict[str, Any]) -> None:
    newer = changed(changed(document, "format_version", 2), "models", "in another shape by then")
    assert message(newer) == (
        "manifest.json: format_version: this mmkd-edge reads up to 1, the bundle has 2; "
        "upgrade with pip install --upgrade mmkd-edge"
    )


@pytest.mark.parametrize(
    ("version", "shown"),
    [(0, "0"), (-1, "-1"), ("1", "'1'"), (1.0, "1.0"), (True, "True"), (None, "None"), (..., "None")],
)
def test_another_format_version_is_refused(document: dict[str, Any], version: object, shown: str) -> None:
    text = message(changed(document, "format_version", version))
    assert text == f"manifest.json: format_version: expected 1, got {shown}{AGAIN}"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("licence", ..., "object missing required field licence"),
        ("models.0.artifacts.0.sha256", ..., "models[0].artifacts[0]: object missing required field sha256"),
        ("models.0.colour", "red", "models[0]: object contains unknown field colour"),
        ("models.0.modality.colour", "red", "models[0].modality: object contains unknown field colour"),
        ("models.0.parameters", "12", "models[0].parameters: expected int, got str"),
        ("models.0.parameters", 12.5, "models[0].parameters: expected int, got float"),
        ("models.0.parameters", -1, "models[0].parameters: expected int >= 0"),
        ("models.0.parameters", 10**30, "models[0].parameters: expected int <= 1000000000000000"),
        ("models.0.validation_score", None, "models[0].validation_score: expected float, got null"),
        ("models.0.mflops", -0.5, "models[0].mflops: expected float >= 0.0"),
        ("models.0.artifacts", [], "models[0].artifacts: expected array of length >= 1"),
        ("models.0.artifacts.0.size_bytes", 0, "models[0].artifacts[0].size_bytes: expected int >= 1"),
        ("models.0.artifacts.0.size_bytes", 2**40, "models[0].artifacts[0].size_bytes: expected int <= 1073741824"),
        ("models.0.artifacts.0.opset", 0, "models[0].artifacts[0].opset: expected int >= 1"),
        ("models.0.artifacts.0.precision", "fp8", "models[0].artifacts[0].precision: invalid enum value 'fp8'"),
        ("models.0.artifacts.0.format", "plan", "models[0].artifacts[0].format: invalid enum value 'plan'"),
        (
            "models.0.artifacts.0.parity.label_agreement",
            1.5,
            "models[0].artifacts[0].parity.label_agreement: expected float <= 1.0",
        ),
        ("models", [], "models: expected array of length >= 1"),
        ("model_id", "", "model_id: expected a name, got none"),
        ("files", [], "files: expected report.json and README.md, got nothing"),
        ("tools", [1], "tools: expected object, got array"),
        ("models.0.modality.kind", "video", "models[0].modality.height: expected the pixels of a frame, got none"),
        ("models.0.modality.height", 8, "models[0].modality.height: expected none for series, got 8"),
        ("models.0.modality.rate_hz", 0, "models[0].modality.rate_hz: expected a rate above 0, got 0.0"),
        ("models.0.modality.samples", 0, "models[0].modality.samples: expected at least 1, got 0"),
        (
            "models.0.modality.samples",
            10**9,
            "models[0].modality.samples: expected at most 16777216 values, got 3000000000",
        ),
        ("models.0.modality.channels", [], "models[0].modality.channels: expected one name per channel, got none"),
        (
            "models.0.modality.channels",
            ["x", "y", "x"],
            "models[0].modality.channels: expected each name once, got 'x' more than once",
        ),
        (
            "models.0.modality.range",
            [2, 1],
            "models[0].modality.range: expected [low, high] with low below high, got [2.0, 1.0]",
        ),
        (
            "models.0.modality.range",
            [0, 1e39],
            "models[0].modality.range: expected [low, high] with low below high, got [0.0, 1e+39]",
        ),
        ("models.0.task.labels", ["one"], "models[0].task.labels: expected 2 to 10000 labels, got 1"),
        ("models.0.task.labels", ["a", ""], "models[0].task.labels: expected names, got an empty one"),
        (
            "models.0.task.labels",
            ["a", "b", "a"],
            "models[0].task.labels: expected each label once, got 'a' more than once",
        ),
        (
            "models.0.artifacts.0.file",
            "../../etc/passwd",
            "models[0].artifacts[0].file: expected 'acc/model.fp32.onnx', got '../../etc/passwd'",
        ),
        (
            "models.0.golden.file",
            "acc/golden.npz\0",
            "models[0].golden.file: expected 'acc/golden.npz', got 'acc/golden.npz\\x00'",
        ),
        ("models.0.golden.sha256", "A" * 64, f"models[0].golden.sha256: {NO_HASH}"),
        ("models.0.dataset_sha256", "a" * 64 + "\n", "models[0].dataset_sha256: expected str of length <= 64"),
        ("models.0.teacher_sha256", "", f"models[0].teacher_sha256: {NO_HASH}"),
        (
            "models.0.inputs.0.shape",
            [1, 3, 20],
            (
                "models[0].inputs: expected acc float32 (1, 20, 3), acc_present float32 (1, 20, 3), "
                "got acc float32 (1, 3, 20), acc_present float32 (1, 20, 3)"
            ),
        ),
        (
            "models.0.outputs",
            [],
            "models[0].outputs: expected logits float32 (1, 3), probabilities float32 (1, 3), got nothing",
        ),
    ],
)
def test_what_breaks_the_contract_is_named_with_its_path(
    document: dict[str, Any], path: str, value: object, says: str
) -> None:
    assert message(changed(document, path, value)) == f"manifest.json: {says}{AGAIN}"


@pytest.mark.parametrize("name", ["振動", "é", "धारा", "press_1"])
def test_a_name_may_be_of_any_script(document: dict[str, Any], name: str) -> None:
    changed_name = changed(document, "models.0.modality.name", name)
    assert f"got {name!r}" not in message(changed_name)  # what is refused next are the tensors, which have the old name


@pytest.mark.parametrize("name", ["", "..", ".acc", "-acc", "a/b", "a\\b", "a b", "a€", "a" * 65, "acc\n", "a\0"])
def test_a_name_that_an_archive_must_not_hold_is_refused(document: dict[str, Any], name: str) -> None:
    wanted = "expected 1 to 64 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
    assert message(changed(document, "models.0.name", name)) == (
        f"manifest.json: models[0].name: {wanted}, got {name!r}{AGAIN}"
    )
    assert message(changed(document, "models.0.modality.name", name)) == (
        f"manifest.json: models[0].modality.name: {wanted}, got {name!r}{AGAIN}"
    )


def test_two_students_whose_folders_clash_are_refused(manifest: Manifest) -> None:
    entry = manifest.models[0]
    other = msgspec.structs.replace(entry, name="ACC")
    with pytest.raises(ManifestError) as caught:
        encode_manifest(msgspec.structs.replace(manifest, models=(entry, other)))
    assert str(caught.value) == f"manifest.json: models: expected each name once, got 'acc' more than once{AGAIN}"


def test_a_key_given_twice_is_refused(manifest: Manifest) -> None:
    data = encode_manifest(manifest).replace(b'"opset": 20', b'"opset": 20, "opset": 21')
    assert message(data) == f"manifest.json: models[0].artifacts[0].opset: expected once, got it twice{AGAIN}"


@pytest.mark.parametrize(("number", "shown"), [("NaN", "nan"), ("-Infinity", "-inf"), ("1e400", "inf")])
def test_a_number_that_is_not_finite_is_refused(manifest: Manifest, number: str, shown: str) -> None:
    data = encode_manifest(manifest).replace(b'"validation_score": 0.75', f'"validation_score": {number}'.encode())
    assert message(data) == (f"manifest.json: models[0].validation_score: expected a finite number, got {shown}{AGAIN}")


def test_a_nan_is_never_written(kit: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        encode_manifest(kit.parts(kit.modality).with_model(validation_score=float("nan")).manifest)
    assert str(caught.value) == f"manifest.json: models[0].validation_score: expected float, got null{AGAIN}"


def test_half_a_surrogate_pair_is_refused(manifest: Manifest) -> None:
    data = encode_manifest(manifest).replace(b'"Apache-2.0"', b'"\\ud800"')
    assert message(data) == f"manifest.json: licence: expected text, got half a surrogate pair{AGAIN}"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a JSON document: Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "expected an object, got list"),
        (b"1", "expected an object, got int"),
        (b"[" * 100_000, "not a JSON document: nested too deeply"),
        (b"\xff", "not a JSON document: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"{} {}", "not a JSON document: Extra data: line 1 column 4 (char 3)"),
    ],
)
def test_what_is_not_a_json_object_is_refused(data: bytes, says: str) -> None:
    assert message(data) == f"manifest.json: {says}{AGAIN}"


def test_a_huge_manifest_is_refused_unread() -> None:
    data = b" " * (MAX_MANIFEST_BYTES + 1)
    assert message(data) == "manifest.json: expected at most 1048576 bytes, got 1048577"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_as_a_manifest_error(kit: Any, data: st.DataObject) -> None:
    document: Any = json.loads(encode_manifest(kit.parts(kit.modality).manifest))
    node, steps = document, data.draw(st.integers(1, 6))
    for _ in range(steps):
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key]:
            parent, node = node, node[key]
        else:
            node[key] = data.draw(json_values)
            break
    else:
        parent[key] = data.draw(json_values)
    try:
        manifest = decode_manifest(json.dumps(document).encode())
    except ManifestError:
        return
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_a_file_entry_is_plain_data() -> None:
    entry = FileEntry(file="a", sha256="0" * 64, size_bytes=1)
    with pytest.raises(AttributeError):
        entry.file = "b"  # type: ignore[misc]


# What an artifact's probabilities are worth.

CONFIDENCE = {"temperature": 0.7, "true_probabilities": [0.0, 0.25, 0.25, 1.0]}
PLACE = "models.0.artifacts.0.confidence"


def with_confidence(document: dict[str, Any], **changes: object) -> dict[str, Any]:
    return changed(document, PLACE, CONFIDENCE | changes)


def test_confidence_survives_its_file(document: dict[str, Any]) -> None:
    read = decode_manifest(json.dumps(with_confidence(document)).encode())
    found = read.models[0].artifacts[0].confidence
    assert found is not None
    assert (found.temperature, found.true_probabilities) == (0.7, (0.0, 0.25, 0.25, 1.0))
    assert decode_manifest(encode_manifest(read)) == read


def test_a_manifest_of_an_earlier_version_has_no_confidence(document: dict[str, Any]) -> None:
    read = decode_manifest(json.dumps(changed(document, PLACE, ...)).encode())
    assert read.models[0].artifacts[0].confidence is None


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"true_probabilities": [0.5, 0.25]}, ".true_probabilities", "expected rising numbers, got 0.5 before 0.25"),
        ({"true_probabilities": []}, ".true_probabilities", "expected array of length >= 1"),
        ({"true_probabilities": [0.5] * 1025}, ".true_probabilities", "expected array of length <= 1024"),
        ({"true_probabilities": [1.5]}, ".true_probabilities[0]", "expected float <= 1.0"),
        ({"temperature": 0}, ".temperature", "expected float > 0.0"),
        ({"scores": []}, "", "object contains unknown field scores"),
    ],
)
def test_nonsense_confidence_is_refused(document: dict[str, Any], changes: Any, where: str, why: str) -> None:
    found = message(with_confidence(document, **changes))
    assert found == f"manifest.json: models[0].artifacts[0].confidence{where}: {why}{AGAIN}"


def test_confidence_belongs_to_classifiers(document: dict[str, Any]) -> None:
    several = changed(with_confidence(document), "models.0.task.kind", "multi_label")
    assert message(several) == (
        "manifest.json: models[0].artifacts[0].confidence: expected none for multi_label, got one" + AGAIN
    )


@pytest.mark.parametrize("text", HIDDEN)
@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("model_id", "model_id"),
        ("models.0.dataset_name", "models[0].dataset_name"),
        ("models.0.modality.channels.1", "models[0].modality.channels"),
        ("models.0.modality.unit", "models[0].modality.unit"),
        ("models.0.task.labels.0", "models[0].task.labels"),
    ],
)
def test_names_that_would_mislead_whoever_reads_them_are_refused(
    document: dict[str, Any], key: str, where: str, text: str
) -> None:
    assert message(changed(document, key, text)) == (
        f"manifest.json: {where}: expected text without control characters and line breaks, got {text!a}{AGAIN}"
    )


@pytest.mark.parametrize("text", ["ruhig ß", "می\u200cروم", "क्\u200dष", "静か", "a b", "🙂", "\ufeffax"])
def test_names_of_any_script_are_taken(document: dict[str, Any], text: str) -> None:
    decode_manifest(json.dumps(changed(document, "models.0.task.labels.0", text)).encode())


LINEAGE = {
    "from_sha256": "1" * 64,
    "dataset": "line two",
    "dataset_sha256": "2" * 64,
    "method": "labels",
    "teacher_sha256": None,
    "labels": 40,
    "gain_points": 10.5,
    "forgotten_points": -0.5,
}


def test_a_lineage_survives_its_file(document: dict[str, Any]) -> None:
    assert decode_manifest(json.dumps(document).encode()).models[0].adapted is msgspec.UNSET
    manifest = decode_manifest(json.dumps(changed(document, "models.0.adapted", [LINEAGE])).encode())
    (step,) = manifest.models[0].adapted or ()
    assert (step.method, step.labels, step.teacher_sha256) == ("labels", 40, None)
    assert step.fraction is None
    assert decode_manifest(encode_manifest(manifest)) == manifest
    part = decode_manifest(json.dumps(changed(document, "models.0.adapted", [LINEAGE | {"fraction": 0.25}])).encode())
    assert (part.models[0].adapted or ())[0].fraction == 0.25
    assert decode_manifest(encode_manifest(part)) == part


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"fraction": 0.0}, "[0].fraction", "expected float > 0.0"),
        ({"fraction": 1.5}, "[0].fraction", "expected float < 1.0"),
        ({"from_sha256": "a"}, "[0].from_sha256", NO_HASH),
        ({"teacher_sha256": ""}, "[0].teacher_sha256", NO_HASH),
        ({"labels": -1}, "[0].labels", "expected int >= 0"),
        ({"method": "a\nb"}, "[0]", r"expected text without control characters and line breaks, got 'a\nb'"),
    ],
)
def test_a_lineage_of_nobody_is_refused(document: dict[str, Any], changes: Any, where: str, why: str) -> None:
    altered = changed(document, "models.0.adapted", [LINEAGE | changes])
    assert message(altered) == f"manifest.json: models[0].adapted{where}: {why}{AGAIN}"


# The steps of a causal student.


def scores(*rising: float) -> dict[str, object]:
    """What scores of novelty are worth."""
    return {"scores": rising, "max_error": 0.0, "tolerance": 1e-4}


def streaming(document: dict[str, Any], **changes: object) -> dict[str, Any]:
    """A manifest of a student that takes steps of two samples, with one state in four slots and one without."""
    step = changed(document, "models.0.artifacts.0.file", "acc/step.fp32.onnx")["models"][0]["artifacts"][0]
    states = [{"name": "cache", "shape": [1, 4, 2], "axis": 1}, {"name": "sum", "shape": [1, 3], "initial": 0.5}]
    facts = {"stride": 2, "memory": 20, "slots": 4, "states": states, "artifacts": [step]} | changes
    return changed(document, "models.0.streaming", facts)


def test_steps_survive_their_file_and_say_what_a_step_takes_and_gives(document: dict[str, Any]) -> None:
    manifest = decode_manifest(json.dumps(streaming(document)).encode())
    assert decode_manifest(encode_manifest(manifest)) == manifest
    (model,) = manifest.models
    assert model.streaming is not None
    assert [(one.name, one.shape) for one in step_inputs(model.modality, model.streaming)] == [
        ("acc", (1, 2, 3)),
        ("acc_present", (1, 2, 3)),
        ("slot", (1, 1)),
        ("cache", (1, 4, 2)),
        ("sum", (1, 3)),
    ]
    assert [(one.name, one.shape) for one in step_outputs(model.task, model.streaming)] == [
        ("logits", (1, 3)),
        ("probabilities", (1, 3)),
        ("next_cache", (1, 1, 2)),
        ("next_sum", (1, 3)),
    ]
    assert [entry.file for entry in member_files(manifest)][2:] == [
        "acc/model.fp32.onnx",
        "acc/step.fp32.onnx",
        "acc/golden.npz",
    ]


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"stride": 21}, "stride", "expected at most a window of 20 samples, got 21"),
        (
            {"states": [{"name": "slot", "shape": [1]}]},
            "states",
            "expected each tensor's name once, got 'slot' more than once",
        ),
        (
            {"states": [{"name": "a", "shape": [1, 1 << 40]}]},
            "states[0].shape",
            f"expected at most {MAX_WINDOW_VALUES} values, got {1 << 40}",
        ),
        (
            {"states": [{"name": "a", "shape": [1, 3], "axis": 1}]},
            "states[0].axis",
            "expected one of 4 slots, got 1 of (1, 3)",
        ),
        (
            {"states": [{"name": "a", "shape": [4], "axis": 1}]},
            "states[0].axis",
            "expected one of 4 slots, got 1 of (4,)",
        ),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(document: dict[str, Any], changes: Any, where: str, why: str) -> None:
    assert message(streaming(document, **changes)) == f"manifest.json: models[0].streaming.{where}: {why}{AGAIN}"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("file", "acc/model.fp32.onnx", "expected 'acc/step.fp32.onnx', got 'acc/model.fp32.onnx'"),
        ("novelty", scores(0.0, 1.0), "expected none in a step graph, got one"),
    ],
)
def test_a_step_graph_is_one_that_takes_one_window(
    document: dict[str, Any], field: str, value: object, why: str
) -> None:
    altered = changed(streaming(document), f"models.0.streaming.artifacts.0.{field}", value)
    assert message(altered) == f"manifest.json: models[0].streaming.artifacts[0].{field}: {why}{AGAIN}"


# Statistics, and what scores of novelty are worth.

CHANNEL = {"mean": 0.0, "std": 1.0, "missing_share": 0.0, "edges": [0.0, 1.0], "shares": [0.25, 0.5, 0.25]}
STATISTICS = {"windows": 4, "channels": [CHANNEL] * 3, "label_shares": [0.5, 0.25, 0.25]}


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"channels": [CHANNEL]}, "channels", "expected one entry per channel, 3, got 1"),
        ({"label_shares": [1.0]}, "label_shares", "expected one share per label, 3, got 1"),
        (
            {"channels": [CHANNEL, CHANNEL | {"edges": [1.0, 1.0]}, CHANNEL]},
            "channels[1].edges",
            "expected rising numbers, got [1.0, 1.0]",
        ),
        (
            {"channels": [CHANNEL, CHANNEL, CHANNEL | {"shares": [1.0]}]},
            "channels[2].shares",
            "expected one more than edges, 3, got 1",
        ),
    ],
)
def test_statistics_of_something_else_are_refused(document: dict[str, Any], changes: Any, where: str, why: str) -> None:
    assert message(changed(document, "models.0.statistics", STATISTICS | changes)) == (
        f"manifest.json: models[0].statistics.{where}: {why}{AGAIN}"
    )
    kept = decode_manifest(json.dumps(changed(document, "models.0.statistics", STATISTICS)).encode())
    assert decode_manifest(encode_manifest(kept)) == kept


def test_scores_of_novelty_rise_and_stand_beside_graphs_that_give_them(document: dict[str, Any]) -> None:
    place = "models.0.artifacts.0.novelty"
    scored = changed(document, place, scores(0.0, 0.5, 0.25))
    assert message(scored) == (
        f"manifest.json: models[0].artifacts[0].novelty: expected none beside graphs without the output, got one{AGAIN}"
    )
    outputs = [*document["models"][0]["outputs"], {"name": "novelty", "dtype": "float32", "shape": [1, 1]}]
    assert message(changed(scored, "models.0.outputs", outputs)) == (
        f"manifest.json: models[0].artifacts[0].novelty.scores: expected rising numbers, got 0.5 before 0.25{AGAIN}"
    )
    rising = changed(changed(scored, "models.0.outputs", outputs), place, scores(0.0, 0.25, 0.5))
    assert decode_manifest(json.dumps(rising).encode()).models[0].has_novelty


@pytest.mark.parametrize(("precision", "most"), [("fp32", "0.01"), ("fp16", "1"), ("int8", "8")])
def test_a_tolerance_is_bounded_by_the_precision(document: dict[str, Any], precision: str, most: str) -> None:
    path = "models.0.artifacts.0"
    lower = changed(changed(document, f"{path}.precision", precision), f"{path}.file", f"acc/model.{precision}.onnx")
    decode_manifest(json.dumps(changed(lower, f"{path}.parity.tolerance", float(most))).encode())
    assert message(changed(lower, f"{path}.parity.tolerance", 1e9)) == (
        f"manifest.json: models[0].artifacts[0].parity.tolerance: expected at most {most}, got 1e+09{AGAIN}"
    )
    outputs = [*document["models"][0]["outputs"], {"name": "novelty", "dtype": "float32", "shape": [1, 1]}]
    novel = changed(changed(lower, "models.0.outputs", outputs), f"{path}.novelty", scores(0.0, 0.5))
    assert message(changed(novel, f"{path}.novelty.tolerance", 1e9)) == (
        f"manifest.json: models[0].artifacts[0].novelty.tolerance: expected at most {most}, got 1e+09{AGAIN}"
    )


def test_the_tolerance_of_a_step_graph_is_that_of_float32(document: dict[str, Any]) -> None:
    altered = changed(streaming(document), "models.0.streaming.artifacts.0.parity.tolerance", 1.0)
    assert message(altered) == (
        "manifest.json: models[0].streaming.artifacts[0].parity.tolerance: expected at most 0.01, got 1" + AGAIN
    )


def test_a_student_without_a_teacher_says_so(document: dict[str, Any]) -> None:
    alone = decode_manifest(json.dumps(changed(document, "models.0.teacher_sha256", None)).encode())
    assert alone.models[0].teacher_sha256 is None


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"kind": "regression"}, "labels", "expected the name of one target, got 3"),
        ({"unit": "rpm"}, "unit", "expected none for classification, got 'rpm'"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(
    document: dict[str, Any], changes: dict[str, object], where: str, why: str
) -> None:
    altered = changed(document, "models.0.task", document["models"][0]["task"] | changes)
    assert message(altered) == f"manifest.json: models[0].task.{where}: {why}{AGAIN}"


REFERENCE = {
    "between": "groups",
    "groups": 2,
    "windows": 4,
    "fewest_windows": 2,
    "false_alarm_rate": 0.1,
    "scales": [1.0, 1.0, 1.0],
    "centres": [[0.0] * 9],
    "spreads": [[1.0] * 9],
    "largest_misfit": 1.0,
    "largest_axes": 1.0,
    "largest_levels": 1.0,
}


def test_a_reference_of_other_channels_is_refused(document: dict[str, Any]) -> None:
    kept = decode_manifest(json.dumps(changed(document, "models.0.group_reference", REFERENCE)).encode())
    assert decode_manifest(encode_manifest(kept)) == kept
    other = changed(document, "models.0.group_reference", REFERENCE | {"scales": [1.0]})
    assert message(other) == f"manifest.json: models[0].group_reference.scales: expected 3, got 1{AGAIN}"
    limits = {"usual": [1.0, 1.0], "lowest": 0.1, "highest": 10.0, "outside_rate": 0.01}
    short = changed(document, "models.0.group_reference", REFERENCE | {"magnitude": limits})
    assert message(short) == f"manifest.json: models[0].group_reference.magnitude.usual: expected 3, got 2{AGAIN}"


def test_what_no_json_can_hold_is_never_written(manifest: Manifest) -> None:
    with pytest.raises(ManifestError) as caught:
        encode_manifest(msgspec.structs.replace(manifest, licence="half \ud800"))
    assert str(caught.value).startswith("manifest.json: cannot be written as JSON: ")
