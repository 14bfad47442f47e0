import dataclasses
import io
import tracemalloc
import zipfile

import msgspec
import numpy as np
import pytest

from mmkd_edge import Bundle, BundleError, ModalitySpec, TaskSpec
from mmkd_edge.bundle.bundle import golden_bytes
from mmkd_edge.bundle.golden import answer_scale, golden_from_bytes, novelty_errors, same_answers
from mmkd_edge.bundle.manifest import graph_outputs
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames

WHERE = "acc/golden.npz"


def refusal(kit, tmp_path, data):
    """What `Bundle.golden` says of a bundle that carries `data` as golden windows, its hashes right."""
    parts = kit.parts(kit.modality)
    parts = dataclasses.replace(parts, members={**parts.members, WHERE: data})
    path = parts.with_model(golden=kit.file_entry(WHERE, data)).write(tmp_path / "student.edge")
    with Bundle.open(path) as bundle, pytest.raises(BundleError) as caught:
        bundle.golden("acc")
    text = str(caught.value)
    assert text.startswith(f"{path}: {WHERE}: ")
    assert text.endswith("; export the bundle again")
    return text.removeprefix(f"{path}: {WHERE}: ").removesuffix("; export the bundle again")


def npz(arrays, *, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    return buffer.getvalue()


@pytest.fixture
def arrays(kit):
    golden = kit.golden(kit.modality)
    fields = {name: getattr(golden, name) for name in golden.__struct_fields__}
    return {name: np.asarray(value) for name, value in fields.items() if value is not None}


def test_golden_windows_survive_the_bundle_and_numpy_reads_them(kit, bundle_path):
    golden = kit.golden(kit.modality)
    with Bundle.open(bundle_path) as bundle:
        read = bundle.golden("acc")
    for name in golden.__struct_fields__:
        expected, got = getattr(golden, name), getattr(read, name)
        np.testing.assert_array_equal(got, expected)
        assert np.asarray(got).dtype == np.asarray(expected).dtype
    assert np.isnan(read.windows).any()
    with np.load(io.BytesIO(golden_bytes(golden)), allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["logits"], golden.logits)
    other = msgspec.structs.replace(golden, windows=np.asfortranarray(golden.windows))
    assert golden_bytes(other) == golden_bytes(golden)


def test_pickled_objects_are_refused_without_running_them(kit, tmp_path, arrays):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    said = refusal(kit, tmp_path, npz({**arrays, "labels": np.array([Payload()], dtype=object)}))
    assert said == "not readable as arrays: Object arrays cannot be loaded when allow_pickle=False"
    assert not ran.exists()


def test_compressed_arrays_are_refused_packed(kit, tmp_path, arrays):
    bomb = npz({**arrays, "windows": np.zeros(4 << 20, np.float32)}, compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        said = refusal(kit, tmp_path, bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said == "expected stored arrays, got compressed ones"
    assert peak_bytes < 2 << 20  # they would unpack to 16 MiB


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 20, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 20, 4), }",
        "(" * 5000,
    ],
    ids=["terabytes", "more than there is", "nested"],
)
def test_a_header_that_lies_is_refused(kit, tmp_path, arrays, header):
    text = header.encode() + b"\n"
    lying = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + arrays["windows"].tobytes()
    buffer = io.BytesIO(npz({name: array for name, array in arrays.items() if name != "windows"}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("windows.npy", lying)
    assert refusal(kit, tmp_path, buffer.getvalue()).startswith("not readable as arrays: ")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("windows", np.zeros((4, 3, 20), np.float32), "windows: expected float32 (4, 20, 3), got float32 (4, 3, 20)"),
        ("windows", np.zeros((4, 20, 3)), "windows: expected float32 (4, 20, 3), got float64 (4, 20, 3)"),
        ("labels", np.zeros(4, np.int32), "labels: expected int64 (4,), got int32 (4,)"),
        ("logits", np.zeros((4, 2), np.float32), "logits: expected float32 (4, 3), got float32 (4, 2)"),
        ("logits", np.full((4, 3), np.nan, np.float32), "expected finite logits and probabilities, got others"),
        ("judge", np.zeros(3, np.bool_), "judge: expected bool (4,), got bool (3,)"),
        ("tolerance", np.float64(0), "tolerance: expected a number above 0 and at most 0.01, got 0"),
        ("tolerance", np.float64(np.nan), "tolerance: expected a number above 0 and at most 0.01, got nan"),
        ("tolerance", np.float64(1e9), "tolerance: expected a number above 0 and at most 0.01, got 1e+09"),
    ],
)
def test_arrays_that_do_not_fit_the_student_are_named(kit, tmp_path, arrays, name, value, says):
    assert refusal(kit, tmp_path, npz({**arrays, name: value})) == says


def test_what_is_no_archive_of_all_arrays_and_windows_is_named(kit, tmp_path, arrays):
    assert refusal(kit, tmp_path, b"not arrays") == "not readable as arrays: File is not a zip file"
    empty = {name: array[:0] if array.ndim else array for name, array in arrays.items()}
    assert refusal(kit, tmp_path, npz(empty)) == "expected at least one window, got none"
    del arrays["judge"]
    assert refusal(kit, tmp_path, npz(arrays)) == (
        "expected the arrays judge, labels, logits, probabilities, tolerance, windows, "
        "got labels, logits, probabilities, tolerance, windows"
    )


def test_answers_are_the_same_by_class_by_labels_that_are_on_and_by_a_tenth_of_a_deviation():
    ours = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)
    theirs = np.array([[0.0, 0.1], [-1.0, 0.0]], dtype=np.float32)
    assert same_answers(TaskSpec(labels=("a", "b")), ours, theirs).tolist() == [True, False]
    # On from a probability of 0.75: from a logit of ln 3 = 1.0986.
    several = TaskSpec(kind="multi_label", labels=("a", "b"), threshold=0.75)
    assert same_answers(several, ours, np.array([[1.0, 1.1], [3.0, 1.1]], dtype=np.float32)).tolist() == [True, False]
    number = TaskSpec(kind="regression", labels=("speed",), unit="rpm")
    given = np.array([[0.0], [0.0]], dtype=np.float32)
    assert same_answers(number, given, np.array([[0.09], [-0.11]], dtype=np.float32)).tolist() == [True, False]


def test_differences_are_counted_in_what_each_answer_is():
    answers = np.array([[-20.0], [5.0]], dtype=np.float32)
    assert answer_scale(TaskSpec(kind="regression", labels=("speed",)), answers) == 20.0
    assert answer_scale(TaskSpec(kind="regression", labels=("speed",)), 0 * answers) == 1.0
    assert answer_scale(TaskSpec(labels=("a", "b")), answers) == 1.0
    expected, got = np.array([[0.0], [3.0]], dtype=np.float32), np.array([[0.5], [2.0]], dtype=np.float32)
    assert novelty_errors(expected, got).tolist() == [0.5, 0.25]


def test_golden_windows_of_video_and_scores_of_novelty_survive(kit):
    modality = ModalitySpec(name="cam", kind="video", channels=("y",), rate_hz=5.0, samples=3, height=4, width=5)
    frames = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5, 1)
    missing = np.array([[False, True, False], [False, False, False]])
    golden = kit.golden(kit.modality)
    two = {name: getattr(golden, name)[:2] for name in ("labels", "logits", "probabilities", "judge")}
    novelty = np.array([[0.25], [4.0]], dtype=np.float32)
    golden = msgspec.structs.replace(golden, windows=mask_missing(frames, missing), novelty=novelty, **two)
    entry = kit.parts(kit.modality).manifest.models[0]
    outputs = graph_outputs(entry.task, novelty=True)
    entry = msgspec.structs.replace(entry, modality=modality, outputs=outputs)
    read = golden_from_bytes(golden_bytes(golden), entry)
    assert read.novelty.tolist() == [[0.25], [4.0]]
    np.testing.assert_array_equal(missing_frames(read.windows), missing)
    np.testing.assert_array_equal(frame_bytes(read.windows)[~missing], frames[~missing])
