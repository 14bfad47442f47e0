import json
import re
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.bundle.manifest import (
    MAX_MANIFEST_BYTES,
    Adapted,
    adapted_text,
    fallback_order,
    member_files,
    step_inputs,
    step_outputs,
)
from mmkd_edge.bundle.manifest_json import decode_manifest, encode_manifest
from mmkd_edge.bundle.strict_json import json_bytes, read_canonical
from mmkd_edge.errors import ManifestError
from tests.edge.said import said

AGAIN = "; export the bundle again"
A_NAME = "expected 1 to 64 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
NO_CONTROLS = "expected text without control characters and line breaks"
NO_HASH = "expected str matching regex '^[0-9a-f]{64}$'"


CHANNEL = {"mean": 0.0, "std": 1.0, "missing_fraction": 0.0, "edges": [0.0, 1.0], "fractions": [0.25, 0.5, 0.25]}
LINEAGE = {"from_sha256": "1" * 64, "dataset": "line two", "dataset_sha256": "2" * 64, "method": "labels"}
LINEAGE |= {"teacher_sha256": None, "labels": 40, "gain_points": 10.5, "forgotten_points": -0.5}
REFERENCE = {
    "between": "groups",
    "groups": 2,
    "windows": 4,
    "fewest_windows": 2,
    "false_alarm_rate": 0.1,
    "scales": [1.0, 1.0, 1.0],
    "centres": [[0.0] * 9],
    "spreads": [[1.0] * 9],
    **dict.fromkeys(("largest_misfit", "largest_axes", "largest_levels"), 1.0),
    "magnitude": {"usual": [1.0, 1.0, 1.0], "lowest": 0.1, "highest": 10.0, "outside_rate": 0.01},
}
RULE = {"hop_fraction": 0.5, "dwell_s": 30.0, "exponent": 0.5, "gain_points": 2.5}
RULE |= {"delay": [2.0, 4.0], "single_delay": [1.0, 3.0]}
SCORES = {"scores": [0.0, 0.5], "max_error": 0.0, "tolerance": 1e-4}


@cache
def full_text(kit):
    """A manifest in which nothing is absent: also a causal student with steps of two samples and two states."""
    document = json.loads(encode_manifest(kit.parts(kit.modality).manifest))
    (model,) = document["models"]
    (artifact,) = model["artifacts"]
    states = [{"name": "cache", "shape": [1, 4, 2], "axis": 1}, {"name": "sum", "shape": [1, 3], "initial": 0.5}]
    step = artifact | {"file": "acc/step.fp32.onnx"}
    artifact["confidence"] = {"temperature": 0.7, "true_probabilities": [0.0, 0.25, 0.25, 1.0]}
    artifact["novelty"] = SCORES
    model["outputs"].append({"name": "novelty", "dtype": "float32", "shape": [1, 1]})
    model["adapted"] = [LINEAGE]
    model["members"] = ["transformer"]
    model["statistics"] = {"windows": 4, "channels": [CHANNEL] * 3, "label_fractions": [0.5, 0.25, 0.25]}
    model["group_reference"] = REFERENCE
    model["over_time"] = {"prior": [0.5, 0.25, 0.25], "rules": [RULE], "changes": 12}
    model["streaming"] = {"stride": 2, "memory": 20, "slots": 4, "states": states, "artifacts": [step]}
    return json.dumps(document)


@pytest.fixture
def manifest(kit):
    return kit.parts(kit.modality).manifest


@pytest.fixture
def document(kit):
    return json.loads(full_text(kit))


def read(document):
    return decode_manifest(json.dumps(document).encode())


def message(document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return said(ManifestError, lambda: decode_manifest(data))


def changed(document, path, value):
    """A copy with the value at `path` ('models.0.name', or '.name' of the only model) replaced; `...` removes it."""
    copy = json.loads(json.dumps(document))
    *parents, last = [int(step) if step.isdigit() else step for step in full_path(path).split(".")]
    node = copy
    for step in parents:
        node = node[step]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return copy


def full_path(path):
    return f"models.0{path}" if path.startswith(".") else path


def test_a_manifest_survives_its_file(manifest, document):
    assert decode_manifest(encode_manifest(manifest)) == manifest
    text = encode_manifest(manifest).decode()
    assert text.startswith('{\n  "format_version": 1,\n  "model_id": "made-up-acc",\n')
    assert text.endswith("}\n")
    full = read(document)
    assert decode_manifest(encode_manifest(full)) == full
    (model,), (bare,) = full.models, manifest.models
    (step,), confidence = model.adapted or (), model.artifacts[0].confidence
    assert (confidence.temperature, confidence.true_probabilities) == (0.7, (0.0, 0.25, 0.25, 1.0))
    assert (step.method, step.labels, step.teacher_sha256) == ("labels", 40, None)
    assert (model.has_novelty, bare.has_novelty) == (True, False)
    assert (bare.adapted, bare.artifacts[0].confidence, bare.streaming) == (None, None, None)
    assert read(changed(document, ".teacher_sha256", None)).models[0].teacher_sha256 is None
    reference = {name: value for name, value in REFERENCE.items() if name != "magnitude"}
    unmeasured = read(changed(document, ".group_reference", reference)).models[0].group_reference
    assert unmeasured.magnitude is None


def test_no_start_evaluates_annotations_but_two():
    rooms = {"mmkd_edge.spec", "mmkd_edge.bundle.manifest", "mmkd_edge.bundle.statistics"}
    fields = [
        (f"{struct.__name__}.{name}", annotation)
        for struct in msgspec.Struct.__subclasses__()
        if struct.__module__ in rooms
        for name, annotation in struct.__annotations__.items()
    ]
    strings = [name for name, annotation in fields if isinstance(annotation, str)]
    assert strings == ["ModalitySpec.derived", "ModalitySpec.parts"]
    assert len(fields) > 100


def test_the_members_and_tensors_of_a_causal_student_come_in_their_order(document):
    manifest = read(document)
    models = ["acc/model.fp32.onnx", "acc/step.fp32.onnx", "acc/golden.npz"]
    assert [entry.file for entry in member_files(manifest)] == ["report.json", "README.md", *models]
    (model,) = manifest.models
    inputs = {tensor.name: tensor.shape for tensor in step_inputs(model.modality, model.streaming)}
    assert list(inputs) == ["acc", "acc_present", "slot", "cache", "sum"]
    assert list(inputs.values()) == [(1, 2, 3), (1, 2, 3), (1, 1), (1, 4, 2), (1, 3)]
    outputs = {tensor.name: tensor.shape for tensor in step_outputs(model.task, model.streaming)}
    assert list(outputs) == ["logits", "probabilities", "next_cache", "next_sum"]
    assert list(outputs.values()) == [(1, 3), (1, 3), (1, 1, 2), (1, 3)]


def test_a_huge_or_newer_manifest_and_a_key_given_twice_are_refused(document, manifest):
    newer = changed(changed(document, "format_version", 2), "models", "in another shape by then")
    told = "this mmkd-edge reads up to 1, the bundle has 2; upgrade with pip install --upgrade mmkd-edge"
    assert message(newer) == f"manifest.json: format_version: {told}"
    assert message(b" " * (MAX_MANIFEST_BYTES + 1)) == "manifest.json: expected at most 1048576 bytes, got 1048577"
    data = encode_manifest(manifest).replace(b'"opset": 20', b'"opset": 20, "opset": 21')
    assert message(data) == f"manifest.json: models[0].artifacts[0].opset: expected once, got it twice{AGAIN}"


@pytest.mark.parametrize(
    ("version", "shown"),
    [(0, "0"), (-1, "-1"), ("1", "'1'"), (1.0, "1.0"), (True, "True"), (None, "None"), (..., "None")],
)
def test_another_format_version_is_refused(document, version, shown):
    text = message(changed(document, "format_version", version))
    assert text == f"manifest.json: format_version: expected 1, got {shown}{AGAIN}"


ARTIFACT, STEP = ".artifacts.0", ".streaming.artifacts.0"
NOT_UNIQUE = ": expected each {} once, got {!r} more than once"
SHAPES = "acc float32 (1, 20, 3), acc_present float32 (1, 20, 3)"


BROKEN = [
    ("licence", ..., "object missing required field licence"),
    (f"{ARTIFACT}.sha256", ..., "models[0].artifacts[0]: object missing required field sha256"),
    (".colour", "red", "models[0]: object contains unknown field colour"),
    (".modality.colour", "red", "models[0].modality: object contains unknown field colour"),
    (".parameters", "12", ": expected int, got str"),
    (".parameters", 12.5, ": expected int, got float"),
    (".parameters", -1, ": expected int >= 0"),
    (".parameters", 10**30, ": expected int <= 1000000000000000"),
    (".validation_score", None, ": expected float, got null"),
    (".modality.height", None, ": expected a value, got null; leave it out"),
    (".mflops", -0.5, ": expected float >= 0.0"),
    (".artifacts", [], ": expected array of length >= 1"),
    (f"{ARTIFACT}.size_bytes", 0, ": expected int >= 1"),
    (f"{ARTIFACT}.size_bytes", 2**40, ": expected int <= 1073741824"),
    (f"{ARTIFACT}.opset", 0, ": expected int >= 1"),
    (f"{ARTIFACT}.precision", "fp8", ": invalid enum value 'fp8'"),
    (f"{ARTIFACT}.format", "plan", ": invalid enum value 'plan'"),
    (f"{ARTIFACT}.parity.label_agreement", 1.5, ": expected float <= 1.0"),
    ("models", [], ": expected array of length >= 1"),
    ("model_id", "", ": expected a name, got none"),
    ("files", [], ": expected report.json and README.md, got nothing"),
    ("tools", [1], ": expected object, got array"),
    (".modality.kind", "video", "models[0].modality.height: expected the pixels of a frame, got none"),
    (".modality.height", 8, ": expected none for series, got 8"),
    (".modality.rate_hz", 0, ": expected a rate above 0, got 0.0"),
    (".modality.samples", 0, ": expected at least 1, got 0"),
    (".modality.samples", 10**9, ": expected at most 16777216 values, got 3000000000"),
    (".modality.channels", [], ": expected one name per channel, got none"),
    (".modality.channels", ["x", "y", "x"], NOT_UNIQUE.format("name", "x")),
    (".modality.range", [2, 1], ": expected [low, high] with low below high, got [2.0, 1.0]"),
    (".modality.range", [0, 1e39], ": expected [low, high] with low below high, got [0.0, 1e+39]"),
    (".task.labels", ["one"], ": expected 2 to 10000 labels, got 1"),
    (".task.labels", ["a", ""], ": expected names, got an empty one"),
    (".task.labels", ["a", "b", "a"], NOT_UNIQUE.format("label", "a")),
    (".task.kind", "regression", "models[0].task.labels: expected the name of one target, got 3"),
    (".task.kind", "multi_label", "models[0].artifacts[0].confidence: expected none for multi_label, got one"),
    (".task.unit", "rpm", ": expected none for classification, got 'rpm'"),
    (f"{ARTIFACT}.file", "../../etc/passwd", ": expected 'acc/model.fp32.onnx', got '../../etc/passwd'"),
    (".golden.file", "acc/golden.npz\0", ": expected 'acc/golden.npz', got 'acc/golden.npz\\x00'"),
    (".golden.sha256", "A" * 64, f": {NO_HASH}"),
    (".dataset_sha256", "a" * 64 + "\n", ": expected str of length <= 64"),
    (".teacher_sha256", "", f": {NO_HASH}"),
    (".inputs.0.shape", [1, 3], f"models[0].inputs: expected {SHAPES}, got {SHAPES.replace('20, 3', '3', 1)}"),
    (".outputs", [], ": expected logits float32 (1, 3), probabilities float32 (1, 3), got nothing"),
    (f"{ARTIFACT}.confidence.true_probabilities", [0.5, 0.25], ": expected rising numbers, got 0.5 before 0.25"),
    (f"{ARTIFACT}.confidence.true_probabilities", [], ": expected array of length >= 1"),
    (f"{ARTIFACT}.confidence.true_probabilities", [0.5] * 1025, ": expected array of length <= 1024"),
    (f"{ARTIFACT}.confidence.true_probabilities.0", 1.5, ": expected float <= 1.0"),
    (f"{ARTIFACT}.confidence.temperature", 0, ": expected float > 0.0"),
    (f"{ARTIFACT}.novelty.scores", [0.0, 0.5, 0.25], ": expected rising numbers, got 0.5 before 0.25"),
    (".outputs.2", ..., "models[0].artifacts[0].novelty: expected none beside graphs without the output, got one"),
    (".adapted.0.from_sha256", "a", f": {NO_HASH}"),
    (".adapted.0.teacher_sha256", "", f": {NO_HASH}"),
    (".adapted.0.labels", -1, ": expected int >= 0"),
    (".adapted.0.method", "a\nb", f"models[0].adapted[0]: {NO_CONTROLS}, got 'a\\nb'"),
    (".streaming.stride", 21, ": expected at most a window of 20 samples, got 21"),
    (".streaming.states", [{"name": "slot", "shape": [1]}], NOT_UNIQUE.format("tensor's name", "slot")),
    (".streaming.states.0.name", "a b", f": {A_NAME}, got 'a b'"),
    (".streaming.states.0.shape", [1, 4, 1 << 40], f": expected at most {1 << 24} values, got {4 << 40}"),
    (".streaming.states.0.axis", 2, ": expected one of 4 slots, got 2 of (1, 4, 2)"),
    (".streaming.states.1.axis", 5, ": expected one of 4 slots, got 5 of (1, 3)"),
    (f"{STEP}.file", "acc/model.fp32.onnx", ": expected 'acc/step.fp32.onnx', got 'acc/model.fp32.onnx'"),
    (f"{STEP}.novelty", SCORES, ": expected none in a step graph, got one"),
    (f"{STEP}.parity.tolerance", 1.0, ": expected at most 0.01, got 1"),
    (".statistics.channels", [CHANNEL], ": expected one entry per channel, 3, got 1"),
    (".statistics.label_fractions", [1.0], ": expected one fraction per label, 3, got 1"),
    (".statistics.channels.1.edges", [1.0, 1.0], ": expected rising numbers, got [1.0, 1.0]"),
    (".statistics.channels.2.fractions", [1.0], ": expected one more than edges, 3, got 1"),
    (".group_reference.scales", [1.0], ": expected 3, got 1"),
    (".group_reference.spreads.0", [1.0] * 8, ": expected 9, got 8"),
    (".group_reference.magnitude.usual", [1.0, 1.0], ": expected 3, got 2"),
    (".over_time.prior", [0.5, 0.5], ": expected one number per label, 3, got 2"),
    (".over_time.prior.1", 0.0, ": expected float > 0.0"),
    (".over_time.rules", [], ": expected array of length >= 1"),
    (".over_time.rules", [RULE] * 5, ": expected array of length <= 4"),
    (".over_time.rules.0.hop_fraction", 0.0, ": expected float > 0.0"),
    (".over_time.rules.0.hop_fraction", 1.5, ": expected float <= 1.0"),
    (".over_time.rules.0.dwell_s", 0.0, ": expected float > 0.0"),
    (".over_time.rules.0.exponent", -1.0, ": expected float > 0.0"),
    (".over_time.rules.0.delay", [1.0], ": expected array of length 2, got 1"),
    (".over_time.rules.0.delay", [2.0, 1.0], ": expected rising numbers, got 2.0 before 1.0"),
    (".over_time.rules.0.single_delay.0", -1.0, ": expected float >= 0.0"),
    (".over_time.changes", 0.5, ": expected int, got float"),
]
"""Path, value and fault; one that begins with a colon is at that path. C refuses them too: test_c_library.py."""


@pytest.mark.parametrize(("path", "value", "fault"), BROKEN)
def test_what_breaks_the_contract_is_named_with_its_path(document, path, value, fault):
    place = re.sub(r"\.(\d+)", r"[\1]", full_path(path)) if fault.startswith(":") else ""
    assert message(changed(document, path, value)) == f"manifest.json: {place}{fault}{AGAIN}"


def test_an_escaped_key_is_refused(document):
    data = json.dumps(document).replace('"licence"', r'"licenc\u0065"').encode()
    assert message(data) == f'manifest.json: expected keys without escapes, got "licenc\\u0065":{AGAIN}'


def test_a_name_that_an_archive_must_not_hold_is_refused(document, manifest):
    for name in ("", "..", ".acc", "-acc", "a/b", "a\\b", "a b", "a€", "a" * 65, "acc\n", "a\0"):
        for place in ("name", "modality.name"):
            told = f"manifest.json: models[0].{place}: {A_NAME}, got {name!r}{AGAIN}"
            assert message(changed(document, f".{place}", name)) == told
    entry = manifest.models[0]
    both = msgspec.structs.replace(manifest, models=(entry, msgspec.structs.replace(entry, name="ACC")))
    told = f"manifest.json: models: expected each name once, got 'acc' more than once{AGAIN}"
    assert said(ManifestError, encode_manifest, both) == told


@pytest.mark.parametrize(
    ("old", "new", "is_canonical"),
    [
        ("", "", True),
        ('"number": 1.5', '"number": 1.50', False),
        ('"number": 1.5', '"number": 2.5, "number": 1.5', False),
        ('"number": 1.5', '"number": NaN', False),
        ('"format_version": 1', '"format_version": 2', False),
        ('"format_version": 1,', "", False),
        ("}", "", False),
    ],
)
def test_only_the_bytes_that_would_be_written_need_no_slower_check(old, new, is_canonical):
    document = msgspec.defstruct("Document", [("format_version", int, 1), ("number", float)], kw_only=True)
    data = json_bytes(document(number=1.5)).decode()
    canonical = read_canonical(data.replace(old, new).encode(), document, version=1)
    assert canonical == (document(number=1.5) if is_canonical else None)


def test_what_no_json_can_hold_is_neither_written_nor_read(kit, manifest):
    for number, shown in (("NaN", "nan"), ("-Infinity", "-inf"), ("1e400", "inf")):
        data = encode_manifest(manifest).replace(b'"validation_score": 0.75', f'"validation_score": {number}'.encode())
        told = f"manifest.json: models[0].validation_score: expected a finite number, got {shown}{AGAIN}"
        assert message(data) == told
    nan = kit.parts(kit.modality).with_model(validation_score=float("nan")).manifest
    told = f"manifest.json: models[0].validation_score: expected float, got null{AGAIN}"
    assert said(ManifestError, lambda: encode_manifest(nan)) == told
    half = msgspec.structs.replace(manifest, licence="half \ud800")
    written = said(ManifestError, lambda: encode_manifest(half))
    assert written.startswith("manifest.json: cannot be written as JSON: ")
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
def test_what_is_not_a_json_object_is_refused(data, says):
    assert message(data) == f"manifest.json: {says}{AGAIN}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_as_a_manifest_error(kit, data):
    document = json.loads(full_text(kit))
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


@pytest.mark.parametrize("text", ["\x1b[2Jok", "ok\nevery byte verified", "a\x85b", "a\u202eb", "a\u2028b"])
@pytest.mark.parametrize(
    "key", ["model_id", ".dataset_name", ".modality.channels.1", ".modality.unit", ".task.labels.0"]
)
def test_names_that_would_mislead_whoever_reads_them_are_refused(document, key, text):
    where = re.sub(r"\.\d$", "", key).replace(".", "models[0].", 1)
    told = f"manifest.json: {where}: {NO_CONTROLS}, got {text!a}{AGAIN}"
    assert message(changed(document, key, text)) == told


@pytest.mark.parametrize("text", ["ruhig ß", "می\u200cروم", "क्\u200dष", "静か", "a b", "🙂", "\ufeffax"])
def test_names_of_any_script_are_taken(document, text):
    read(changed(document, ".task.labels.0", text))
    for name in ("振動", "é", "धारा", "press_1"):  # what is refused next are the tensors, which have the old name
        assert f"got {name!r}" not in message(changed(document, ".modality.name", name))


@pytest.mark.parametrize(("precision", "limit"), [("fp32", "0.01"), ("fp16", "1"), ("int8", "8")])
def test_a_tolerance_is_bounded_by_the_precision(document, precision, limit):
    lower = changed(document, f"{ARTIFACT}.precision", precision)
    lower = changed(lower, f"{ARTIFACT}.file", f"acc/model.{precision}.onnx")
    read(changed(lower, f"{ARTIFACT}.parity.tolerance", float(limit)))
    for part in ("parity", "novelty"):
        told = f"manifest.json: models[0].artifacts[0].{part}.tolerance: expected at most {limit}, got 1e+09{AGAIN}"
        assert message(changed(lower, f"{ARTIFACT}.{part}.tolerance", 1e9)) == told


def test_an_adaptation_is_one_line_and_a_twin_no_sensor_of_its_own(kit):
    step = msgspec.convert(LINEAGE, Adapted)
    begin = f"checkpoint {'1' * 64} to line two (SHA-256 {'2' * 64}) by 'labels'"
    assert adapted_text(step) == f"{begin}, 40 labels: estimate +10.5 points, old domain +0.5"
    taught = msgspec.structs.replace(step, teacher_sha256="3" * 64, labels=0, forgotten_points=0.0)
    assert adapted_text(taught) == f"{begin}, teacher {'3' * 64}: estimate +10.5 points, old domain +0.0"
    document = json.loads(encode_manifest(kit.parts(kit.modality).manifest))
    (model,) = document["models"]
    twins = [renamed(model, "acc-a", "acc"), renamed(model, "other", None), renamed(model, "acc-b", "acc")]
    order = fallback_order(read(document | {"models": [model, *twins]}))
    assert [[entry.name for entry in students] for students in order] == [["acc", "acc-a", "acc-b"], ["other"]]


def renamed(model, name, twin_of):
    text = json.dumps(model | {"name": name}).replace('"acc/', f'"{name}/')
    made = json.loads(text)
    return made if twin_of is None else made | {"twin_of": twin_of}


@pytest.mark.parametrize(
    ("twin_of", "changes", "says"),
    [
        ("gyro", {}, "expected a student before it that is no twin ('acc'), got 'gyro'"),
        ("acc-twin", {}, "expected a student before it that is no twin ('acc'), got 'acc-twin'"),
        ("acc", {"labels": ["x", "y"]}, "expected the modality and task of 'acc', without steps, got others"),
    ],
)
def test_a_twin_reads_and_answers_what_its_student_does(kit, twin_of, changes, says):
    document = json.loads(encode_manifest(kit.parts(kit.modality).manifest))
    (model,) = document["models"]
    twin = renamed(model, "acc-twin", twin_of)
    twin["task"] |= changes
    for output in twin["outputs"] if changes else ():
        output["shape"] = [1, 2]
    assert message(document | {"models": [model, twin]}) == f"manifest.json: models[1].twin_of: {says}{AGAIN}"
