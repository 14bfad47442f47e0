"""Students of convolutional features, alone and averaged: exported, and run by every engine that is here."""

import json
from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import onnx
import pytest
import torch

from mmkd_app.training.checkpoints import write_student_and_report
from mmkd_app.training.tracking import tracked
from mmkd_edge import EdgePredictor
from mmkd_edge.backends.base import is_installed, open_backend
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, GateError, UsageError
from mmkd_edge.frames import frame_bytes, mask_missing, missing_frames
from mmkd_edge.native import NativeModel
from mmkd_edge.predict.preprocess import prepare, prepare_batch
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.graph.onnx_graph import learnt_layers, select_layers
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.targets.native import latency_limit, measure_member
from mmkd_export.targets.table import TARGETS
from mmkd_export.verify import answers as answers_module
from mmkd_export.verify.answers import answers_from_student, clear_rows, require_agreement, with_missing_samples
from mmkd_export.verify.windows import plausible_range
from mmkd_models.data import open_dataset
from mmkd_models.evaluation.suites.models import model_from_checkpoint
from mmkd_models.networks.config import TreesConfig, student_members
from mmkd_models.networks.convolutions import fit_convolutions
from mmkd_models.networks.intervals import apply_intervals, fit_intervals
from mmkd_models.networks.student import Student
from mmkd_models.networks.trees import TREES_DTYPES, grow_arrays
from mmkd_models.training.checkpoint import write_student
from mmkd_models.training.students import LatencyLimit
from tests.edge.said import said
from tests.export.students import card_of, export_student, make_student, of_features, write_windows

AVERAGE = "transformer,convolutions"
KINDS = pytest.mark.parametrize("kind", ["convolutions", AVERAGE])


@pytest.fixture(scope="module")
def students():
    """By kind: features of the carried windows, half of them pruned, and heads with random weights."""
    return {kind: of_features(make_student(), kind) for kind in ("convolutions", AVERAGE)}


@pytest.fixture(scope="module")
def graphs(students):
    return {kind: onnx_from_student(student) for kind, student in students.items()}


@KINDS
@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_every_engine_answers_as_torch_does_also_with_gaps(students, graphs, kind, engine):
    pytest.importorskip({"ort": "onnxruntime"}.get(engine, engine))
    student = students[kind]
    windows = np.concatenate([student.carried.windows, with_missing_samples(student.carried.windows, seed=0)])
    windows[-1] = np.nan
    assert_logits(engine, graphs[kind], student, windows, atol=2e-5)


def assert_logits(engine, graph, student, windows, *, atol):
    """Assert that an engine answers these windows as torch does."""
    backend = open_backend(engine, graph, threads=1)
    names = [tensor.name for tensor in backend.inputs]
    feeds = [dict(zip(names, prepare(window, student.modality), strict=True)) for window in windows]
    logits = np.concatenate([backend.run(one)[0] for one in feeds])
    backend.close()
    np.testing.assert_allclose(logits, answers_from_student(student, windows).logits, rtol=1e-7, atol=atol)


@KINDS
def test_convolutional_features_stay_float32_in_int8(graphs, kind):
    layers = learnt_layers(onnx.load_from_string(graphs[kind]))
    assert any(layer.name.startswith("convolutions.") for layer in layers)
    chosen = select_layers(layers, ops=("Conv", "Gemm", "MatMul"))
    assert not any(layer.name.startswith("convolutions.") for layer in chosen)
    assert bool(chosen) == (kind == AVERAGE)


@pytest.mark.parametrize("kind", [pytest.param("convolutions", marks=pytest.mark.slow), AVERAGE])
def test_a_bundle_of_the_kind_tests_itself(students, kind, tmp_path):
    precisions = ("fp16",) if kind == "convolutions" else ("fp16", "int8")
    options = {"accept_unjudged": True, "precisions": precisions, "platform": "jp6.2", "max_drop_points": 100.0}
    export_student(tmp_path, students[kind], **options)
    members = f"{kind.replace(',', ', ')}, 84 convolutional features"
    assert inspect_file(tmp_path / "student.ckpt")["student_members"] == members
    for precision in ("fp32", *precisions):
        with EdgePredictor.open(tmp_path / "student.edge", backend="ort", precision=precision) as predictor:
            assert predictor.selftest().label_agreement >= (1.0 if precision == "fp32" else 0.9)


def of_members(members, task=None, *, like=None):
    """A student of these members, fitted to the windows that it carries, or that another one does."""
    start = like or make_student(windows=120, **({} if task is None else {"task": task}))
    values, present = prepare_batch(start.carried.windows, start.modality)
    intervals = fit_intervals(start.modality, values, present, scale=(values.mean((0, 1)), values.std((0, 1))))
    config = msgspec.structs.replace(start.config, members=student_members(members))
    state = {f"intervals.{name}": part for name, part in intervals.state_dict().items()}
    kind, outputs = start.task.kind, len(start.task.labels)
    labels = start.carried.labels
    labels = (labels - labels.mean()) / labels.std() if kind == "regression" else labels
    if "trees" in config.members:
        features = apply_intervals(intervals, values, present)
        arrays = grow_arrays(features, labels, trees=40, classes=outputs, kind=kind, seed=0)
        sizes = TreesConfig(trees=40, nodes=len(arrays["feature"]), leaves=len(arrays["fractions"]))
        config = msgspec.structs.replace(config, trees=sizes)
        state |= {f"trees.{name}": part for name, part in arrays.items()} | {"trees.scale": torch.tensor([0.7])}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = Student(start.modality, outputs, config, kind=kind).state_dict()
    kept = {name: part for name, part in start.state.items() if name in fresh and not name.startswith("head.")}
    return replace(start, config=config, state=fresh | kept | state)


TREES_TASKS = {
    "classes": None,
    "several labels": TaskSpec(kind="multi_label", labels=("worn", "hot")),
    "a number": TaskSpec(kind="regression", labels=("wear",), unit="um"),
}


@pytest.mark.parametrize(
    ("members", "task", "precisions"),
    [
        ("transformer,intervals,trees", "classes", ("fp16", "int8")),
        ("trees", "a number", ()),
        pytest.param("intervals", "classes", ("fp16",), marks=pytest.mark.slow),
        pytest.param("trees", "classes", (), marks=pytest.mark.slow),
        pytest.param("trees", "several labels", (), marks=pytest.mark.slow),
    ],
)
def test_ort_and_native_run_intervals_and_trees(members, task, precisions, tmp_path, native_engine):
    student = of_members(members, TREES_TASKS[task])
    judged = {"accept_unjudged": True, "max_drop_points": 100.0} if precisions else {}
    options = {"platform": "cpu-x86", "precisions": precisions, "targets": ("native",), **judged}
    path = export_student(tmp_path, student, **options).path
    for precision in ("fp32", *precisions):
        for backend in ("ort",) if precision == "fp16" else ("ort", "native"):
            with EdgePredictor.open(path, backend=backend, precision=precision, threads=1) as predictor:
                assert predictor.selftest().label_agreement >= (1.0 if precision == "fp32" else 0.9)
    windows = student.carried.windows[clear_rows(student, student.carried.windows)]
    expected = answers_from_student(student, windows)
    with Bundle.open(path) as bundle:
        model = NativeModel(bundle.read("acc/model.fp32.native"))
    for number, window in enumerate(windows):
        logits = model.run(*prepare_batch(window[None], student.modality))[0]
        np.testing.assert_allclose(logits[0], expected.logits[number], atol=1e-4)


def test_training_export_and_evaluation_count_the_same_parameters(tmp_path, capsys):
    """Weights, kernels and the nodes of trees."""
    student = of_members("transformer,trees")
    network = student.network()
    count = sum(parameter.numel() for parameter in network.parameters()) + len(network.trees.feature)
    with tracked(None, tmp_path, title="") as tracker:
        write_student_and_report(tmp_path / "student.ckpt", student, tracker, json=True)
    assert json.loads(capsys.readouterr().out)["parameters"] == count
    assert export_student(tmp_path, student).manifest.models[0].parameters == count
    carried = student.carried
    data = open_dataset(write_windows(tmp_path / "data", student, carried.windows, carried.labels))
    model = model_from_checkpoint(str(tmp_path / "student.ckpt"), data.split("test"), data.sha256)
    assert model.facts.parameters == count


def test_a_member_takes_the_median_of_its_windows(monkeypatch):
    def timed(run, *, number, repeat):
        assert (run()[0].shape, number, repeat) == ((1, 4), 1, 100)
        return [0.001, 0.004, 0.002]

    monkeypatch.setattr("mmkd_export.targets.native.repeat", timed)
    assert measure_member(make_student()) == 2.0
    assert latency_limit(0.5) == LatencyLimit(ms=0.5, measure=measure_member)
    assert latency_limit(None) is None


@pytest.mark.parametrize(
    ("target", "members", "lacking"), [("trt", "trees", "trees"), ("litert", "intervals,trees", "intervals and trees")]
)
def test_engines_without_trees_are_named_with_what_to_do(target, members, lacking):
    row = next(row for row in TARGETS if row.name == target)
    assert said(UsageError, row.check_members, student_members(members)) == (
        f"--target {target}: its engine has no {lacking}, and this checkpoint no second student without them; train it "
        "with transformer or convolutions among its --members, or without that option"
    )
    with pytest.raises(UsageError, match=f"^its engine has no {lacking}; --target {target} adds a twin$"):
        row.check_members(student_members(members), has_portable=True)
    row.check_members(("transformer", "convolutions"))


def test_trees_take_the_leaves_of_float32_in_exact_answers():
    """A float64 feature on the other side of a threshold says nothing of engines, which round as PyTorch does."""
    student = of_members("trees")
    network, windows = student.network(), student.carried.windows
    values, present = map(torch.from_numpy, prepare_batch(windows, student.modality))
    single, double = network.intervals(values, present), network.double().intervals(values.double(), present.double())
    apart = (single.double() - double).abs().max(0).values
    feature = int(apart.argmax())
    assert apart[feature] > 0
    row = int((single[:, feature].double() - double[:, feature]).abs().argmax())
    # One tree of one node, whose threshold is between both values of that feature.
    low, high = sorted((float(single[row, feature]), float(double[row, feature])))
    threshold = np.float32(low) if np.float32(low) < high else np.nextafter(np.float32(low), np.float32(-np.inf))
    links = {"roots": [0], "left": [1, 0, 1], "right": [2, 0, 0]}
    arrays = {**links, "feature": [feature, -1, -1], "threshold": [threshold, 0, 0], "fractions": np.eye(4)[:2]}
    state = {f"trees.{name}": torch.as_tensor(np.array(part)).to(TREES_DTYPES[name]) for name, part in arrays.items()}
    config = msgspec.structs.replace(student.config, trees=TreesConfig(trees=1, nodes=3, leaves=2))
    altered = replace(student, config=config, state={**student.state, **state})
    exact = answers_from_student(altered, windows, exact=True)
    np.testing.assert_allclose(exact.logits, answers_from_student(altered, windows).logits, atol=1e-4)


def test_a_target_without_trees_is_refused_before_anything_is_converted(tmp_path):
    write_student(tmp_path / "student.ckpt", of_members("trees"))
    stages = []
    output = tmp_path / "student.edge"
    plan = ExportPlan(source=tmp_path / "student.ckpt", output=output, targets=("trt",), platform="jp6.2")
    with pytest.raises(UsageError, match="--target trt: its engine has no trees, and this checkpoint no second"):
        export(plan, on_stage=stages.append)
    assert stages == ["1/5 read the checkpoint"]
    assert not output.exists()


def test_openvino_runs_intervals_and_says_what_runs_trees():
    pytest.importorskip("openvino")
    student = of_members("intervals")
    assert_logits("openvino", onnx_from_student(student), student, student.carried.windows, atol=2e-4)
    with pytest.raises(
        BackendError, match="it has trees, an operator that this engine lacks; take the backend native or"
    ):
        open_backend("openvino", onnx_from_student(of_members("trees")), threads=1)


def test_another_leaf_is_one_vote_and_changes_no_label():
    """Over all windows, those near a threshold and with gaps too."""
    student = of_members("trees")
    windows = np.concatenate([student.carried.windows, with_missing_samples(student.carried.windows, seed=1)])
    expected = answers_from_student(student, windows).probabilities
    backend = open_backend("ort", onnx_from_student(student), threads=1)
    feeds = [dict(zip(("acc", "acc_present"), prepare(window, student.modality), strict=True)) for window in windows]
    got = np.concatenate([backend.run(one)[1] for one in feeds])
    backend.close()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert (np.abs(got - expected).max(1) > 1e-4).mean() <= 0.02


def test_windows_whose_trees_rounding_could_change_are_no_golden_windows(tmp_path):
    student = of_members("trees")
    network = student.network()
    values, present = prepare_batch(student.carried.windows, student.modality)
    features = network.intervals(*map(torch.from_numpy, (values, present)))
    # A threshold a millionth above what the first tree's root reads of the first window.
    root = int(network.trees.roots[0])
    threshold = student.state["trees.threshold"].clone()
    value = features[0, int(network.trees.feature[root])]
    threshold[root] = value + 1e-6 * (1 + value.abs())
    clear = clear_rows(replace(student, state={**student.state, "trees.threshold": threshold}), student.carried.windows)
    assert not clear[0]
    assert clear.mean() > 0.5
    assert clear_rows(make_student(), student.carried.windows).all()


def test_the_clearest_windows_are_golden_where_none_is_clear(tmp_path, monkeypatch):
    student = of_members("trees")
    network = student.network()
    prepared = prepare_batch(student.carried.windows, student.modality)
    apart = network.trees.walk(network.intervals(*map(torch.from_numpy, prepared)))[1].numpy()
    monkeypatch.setattr(answers_module, "_CLEAR", np.inf)
    with Bundle.open(export_student(tmp_path, student).path) as bundle:
        golden, entry = bundle.golden("acc"), bundle.manifest.models[0]
    clearest = student.carried.windows[np.sort(np.argsort(-apart, kind="stable")[:8])]
    np.testing.assert_array_equal(golden.windows, clearest)
    assert entry.statistics.windows == len(student.carried.windows)  # what drift is measured by has them all


def test_answers_that_rounding_may_not_change_are_refused():
    require_agreement(0.98, what="fp32 graph")
    assert said(GateError, require_agreement, 0.975, what="fp32 graph") == (
        "fp32 graph: expected the checkpoint's answer on 98% of the windows or more, got it on 97.5%; no bundle was "
        "written. Please report it with the versions of torch and onnxruntime"
    )


@pytest.mark.parametrize(
    ("value_range", "golden"), [("auto", "synthetic"), pytest.param("none", "real", marks=pytest.mark.slow)]
)
def test_features_alone_have_a_range_and_golden_windows_by_statistics(students, tmp_path, value_range, golden):
    student = students["convolutions"]
    mean, std = (student.state[f"convolutions.{name}"].tolist() for name in ("mean", "std"))
    made = export_student(tmp_path, student, value_range=value_range, golden=golden)
    (entry,) = made.manifest.models
    expected = plausible_range(student.carried.windows, mean=mean, std=std)
    assert expected is not None
    assert entry.modality.range == (expected if value_range == "auto" else None)
    with EdgePredictor.open(made.path, backend="ort") as predictor:
        assert predictor.selftest().label_agreement == 1.0


MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=4000.0, samples=1000)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=10, height=12, width=16)
COLOUR = msgspec.structs.replace(CAM, channels=("r", "g", "b"))
FURTHER = ("colour", "mic_convolutions", "cam_convolutions", "cam_transformer,convolutions")
SEEN = pytest.mark.parametrize("name", ["mic", "cam", *(pytest.param(one, marks=pytest.mark.slow) for one in FURTHER)])


# All of them are in TensorRT's parser (10.3) and in the converters of OpenVINO and LiteRT.
@pytest.fixture(scope="module")
def seen():
    """With random weights, normalised as the carried windows are, and of other kinds with features of theirs."""
    found = {}
    for name, modality in (("mic", MIC), ("cam", CAM), ("colour", COLOUR)):
        start = make_student(modality=modality, windows=40)
        values = frame_bytes(start.carried.windows).astype(np.float64)
        axes = tuple(range(values.ndim - 1))
        scale = [torch.from_numpy(part(values, axis=axes)) for part in (np.nanmean, np.nanstd)]
        state = dict(start.state) | dict(zip(("encoder.front.mean", "encoder.front.std"), scale, strict=True))
        found[name] = replace(start, state={key: tensor.float() for key, tensor in state.items()})
    for name in FURTHER[1:]:
        found[name] = _with_features(found[name[:3]], members=name[4:])
    return found


def _with_features(start, *, members):
    values, present = prepare_batch(start.carried.windows, start.modality)
    scale = tuple(start.state[f"encoder.front.{name}"].numpy() for name in ("mean", "std"))
    features = fit_convolutions(start.modality, values, present, scale=scale, seed=0, features=84)
    config = msgspec.structs.replace(start.config, members=student_members(members), convolutions=features.config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Student(start.modality, len(start.task.labels), config)
    state = network.state_dict() | {f"convolutions.{name}": value for name, value in features.state_dict().items()}
    fronts = {key: tensor for key, tensor in start.state.items() if "front" in key and key in state}
    return replace(start, config=config, state=state | fronts)


@pytest.fixture(scope="module")
def graph_of(seen):
    """The graph of a student, made when it is first asked for."""
    return cache(lambda name: onnx_from_student(seen[name]))


@pytest.fixture(scope="module")
def bundles(seen, tmp_path_factory):
    folder, options = tmp_path_factory.mktemp("bundles"), {"precisions": ("fp16", "int8"), "accept_unjudged": True}
    return {name: export_student(folder, seen[name], name=name, **options) for name in ("mic", "cam")}


def some(student):
    """Eight windows, whole and with gaps, the last of them empty."""
    whole = student.carried.windows[:8]
    join = np.ma.concatenate if student.modality.kind == "video" else np.concatenate
    return join([whole, with_missing_samples(whole, seed=0)])


@SEEN
@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_every_engine_hears_and_sees_as_torch_does_also_with_gaps(seen, graph_of, name, engine):
    if not is_installed(engine):
        pytest.skip(f"needs pip install 'mmkd-edge[{engine}]'")
    # float32 sums of another order, over spectra of hundreds of samples and frames of hundreds of pixels.
    assert_logits(engine, graph_of(name), seen[name], some(seen[name]), atol=1e-4)


@pytest.mark.parametrize("name", ["cam", pytest.param("colour", marks=pytest.mark.slow)])
def test_bytes_stay_bytes_up_to_the_first_node(graph_of, name):
    graph = onnx.load_from_string(graph_of(name)).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    readers = [node.op_type for node in graph.node if "cam" in node.input]
    assert readers == ["Cast"]


@pytest.mark.parametrize("name", ["mic", "cam"])
def test_lower_precision_leaves_the_spectrum_and_the_first_convolution_alone(graph_of, name):
    layers = learnt_layers(onnx.load_from_string(graph_of(name)))
    assert layers[0].name == {"mic": "encoder.stem.0", "cam": "encoder.front.stem.0"}[name]
    chosen = {layer.name for layer in select_layers(layers, ops=("Conv", "Gemm", "MatMul"))}
    assert layers[0].name not in chosen
    assert "encoder.blocks.0.feedforward.up" in chosen
    if name == "cam":
        embed = next(layer for layer in layers if layer.name == "encoder.front.embed")
        assert (embed.m, embed.n) == (10, 16)


@pytest.mark.parametrize("name", ["mic", "cam"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_answers_for_what_a_sensor_gives(seen, bundles, name, precision):
    windows = some(seen[name])[:9]
    with Bundle.open(bundles[name].path) as bundle:
        expected = bundle.golden(name).probabilities[:8]
    with EdgePredictor.open(bundles[name].path, backend="ort", precision=precision) as predictor:
        found = predictor.predict_batch(windows)
        shares = np.stack([one.probabilities for one in found if one.index >= 0])
        assert predictor.selftest().windows == 40
        assert predictor.health().models[0].model == name
    assert [one.status == "invalid" for one in found] == [False] * 8 + [True]  # the first with gaps misses everything
    np.testing.assert_allclose(shares, expected, atol={"fp32": 1e-4, "fp16": 0.01, "int8": 0.1}[precision])


def test_a_bundle_of_a_camera_keeps_bytes_and_missing_frames_and_says_what_a_window_is(seen, bundles):
    carried = seen["cam"].carried
    with Bundle.open(bundles["cam"].path) as bundle:
        golden = bundle.golden("cam").windows
        statistics = bundle.manifest.models[0].statistics
    assert golden.dtype == np.uint8
    assert np.array_equal(frame_bytes(golden), frame_bytes(carried.windows))
    assert np.array_equal(missing_frames(golden), missing_frames(carried.windows))
    assert statistics.channels[0].missing_fraction == pytest.approx(missing_frames(golden).mean())
    mic, cam = (inspect_file(bundles[name].path) for name in ("mic", "cam"))
    assert mic["mic.window"] == "1000 samples of audio x left, right at 4000 Hz"
    assert cam["cam.window"] == "10 frames of 12 x 16 pixels x gray at 25 Hz"
    card = card_of(bundles["cam"].path)
    assert "Windows of 10 frames (0.4 s at 25 Hz) of 12 rows by 16 pixels by 1 channels (gray), the camera's" in card
    assert "`cam` uint8 (1, 10, 12, 16, 1) (missing values as 0) and `cam_present` float32 (1, 10, 1) (1 or 0)" in card


def test_large_windows_judge_an_export_and_few_of_them_travel(tmp_path):
    modality = msgspec.structs.replace(MIC, samples=4000)  # 32 kB a window: 131 of 204 are 4 MiB
    made = export_student(tmp_path, make_student(modality=modality, windows=204))
    assert (made.report.windows.count, made.report.windows.judging, made.report.windows.carried) == (204, 102, 131)
    with Bundle.open(made.path) as bundle:
        assert len(bundle.golden("mic").windows) == 131
        card = bundle.read("README.md").decode()
    assert "\n131 of these windows are in here, as golden windows: the device tests itself with them.\n" in card


def test_a_camera_can_be_tested_without_recordings(seen, tmp_path):
    made = export_student(tmp_path, seen["cam"], golden="synthetic")
    with Bundle.open(made.path) as bundle:
        assert bundle.golden("cam").windows.dtype == np.uint8
    with EdgePredictor.open(made.path, backend="ort") as predictor:
        assert predictor.selftest().label_agreement == 1.0


def test_a_range_of_bytes_is_refused(seen, tmp_path):
    assert said(UsageError, export_student, tmp_path, seen["cam"], value_range=(0.0, 255.0)) == (
        "--range: modality 'cam' is video, whose values are bytes; leave it out"
    )


def test_gaps_of_a_camera_are_missing_frames(seen):
    carried = seen["cam"].carried
    gaps = with_missing_samples(carried.windows, seed=0)
    before, after = missing_frames(carried.windows), missing_frames(gaps)
    assert bool(after[0].all())
    assert bool((after.sum(1)[1:] >= 2).all())
    assert bool((after >= before).all())
    assert not bool(missing_frames(mask_missing(frame_bytes(gaps), before))[0].any())
