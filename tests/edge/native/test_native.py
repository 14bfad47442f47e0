"""The native engine computes what the network computes, on every instruction set, and refuses damaged files."""

import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import msgspec
import numpy as np
import pytest
import torch

from mmkd_edge.errors import BackendError, UnavailableError
from mmkd_edge.native import ISAS, NativeModel
from mmkd_edge.native.build import FOLDER, SOURCES, build
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.native_from_student import int8_weights, native_file
from mmkd_models.networks.config import student_config
from mmkd_models.networks.convolutions import fit_convolutions
from mmkd_models.networks.step import StepStudent
from mmkd_models.networks.student import ExportStudent, Student
from mmkd_models.novelty import TrainingEmbeddings
from tests.edge.said import said

WINDOWS = 24
networks = {}


pytestmark = pytest.mark.usefixtures("native_engine")


@cache
def case(kind, samples, channels, task="classification", outputs=5):
    """A student of random weights as a file, windows with gaps, and what PyTorch answers for them."""
    rng = np.random.default_rng(7)
    torch.manual_seed(7)
    names = tuple(f"c{number}" for number in range(channels))
    modality = ModalitySpec(name="acc", kind="series", channels=names, unit="g", rate_hz=50.0, samples=samples)
    values = rng.normal(size=(WINDOWS, samples, channels)).cumsum(axis=1).astype(np.float32)
    present = np.ones_like(values)
    present[1, samples // 4 : samples // 2] = 0  # a gap, a lost channel, nothing at all, every second sample
    present[2, :, 0] = 0
    present[3] = 0
    present[4] = rng.random((samples, channels)) > 0.5
    values *= present
    scale = values.mean((0, 1)), values.std((0, 1))
    members = {"convolutions": ("convolutions",), "average": ("transformer", "convolutions")}
    config = student_config("tiny", members=members.get(kind, ("transformer",)), causal=kind == "causal")
    if kind == "causal" and samples < 100:  # narrower than whole vectors
        narrow = msgspec.structs.replace(config.encoder, width=24, heads=3)
        config = msgspec.structs.replace(config, encoder=narrow)
    features = None
    if kind in ("convolutions", "average"):
        features = fit_convolutions(modality, values, present, scale=scale, seed=1, features=252, positions=100)
        config = msgspec.structs.replace(config, convolutions=features.config)
    network = Student(modality, outputs, config, kind=task).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if kind != "convolutions":
            network.encoder.front.mean.copy_(torch.from_numpy(scale[0]))
            network.encoder.front.std.copy_(torch.from_numpy(scale[1]))
        if kind in ("transformer", "average"):
            network.encoder.front.movement.uniform_(0.2, 2.0)
        if features is not None:
            network.convolutions.load_state_dict(features.state_dict())
        if task == "regression":
            network.answer.mean.fill_(3.0)
            network.answer.std.fill_(0.5)
        embeddings = network(torch.from_numpy(values), torch.from_numpy(present)).embedding
        per = 1 / (embeddings.std(0) + 0.1)
        shift = -embeddings.mean(0) * per
        seen = TrainingEmbeddings(scale=per, shift=shift, centres=embeddings[5:9] * per + shift, scores=torch.zeros(1))
        graph = ExportStudent(network, temperature=1.3, embeddings=seen).eval()
        answers = [
            graph(torch.from_numpy(values[row : row + 1]), torch.from_numpy(present[row : row + 1]))
            for row in range(WINDOWS)
        ]
    networks[kind, samples, channels] = network, seen
    expected = [torch.cat(parts).numpy() for parts in zip(*answers, strict=True)]
    return native_file(graph, modality), values, present, expected


def model_or_skip(data, isa):
    try:
        return NativeModel(data, isa=isa)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize(
    ("kind", "samples", "channels", "task", "outputs"),
    [
        ("transformer", 200, 3, "classification", 5),
        ("transformer", 33, 1, "multi_label", 2),
        ("transformer", 7, 2, "classification", 3),
        ("convolutions", 200, 3, "classification", 5),
        ("convolutions", 61, 9, "classification", 17),
        ("average", 240, 2, "regression", 1),
        ("causal", 200, 3, "classification", 5),
        ("causal", 37, 1, "multi_label", 2),
    ],
)
def test_a_window_is_answered_as_the_network_answers_it(kind, samples, channels, task, outputs, isa):
    data, values, present, expected = case(kind, samples, channels, task, outputs)
    model = model_or_skip(data, isa)
    assert (model.modality, model.shape, model.outputs, model.isa) == ("acc", (samples, channels), outputs, isa)
    answers = [model.run(values[row : row + 1], present[row : row + 1]) for row in range(WINDOWS)]
    for name, expected_part, parts in zip(("logits", "answers"), expected, zip(*answers, strict=True), strict=False):
        np.testing.assert_allclose(np.concatenate(parts), expected_part, atol=2e-4, err_msg=name)
    novelty = np.concatenate([parts[2] for parts in answers])
    np.testing.assert_allclose(novelty, expected[2], rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize("kind", ["transformer", "convolutions", "causal"])
def test_int8_weights_take_less_room_and_answer_nearly_the_same(kind, isa):
    data, values, present, expected = case(kind, 200, 3)
    small = int8_weights(data)
    assert len(small) < len(data) * (0.8 if kind == "convolutions" else 0.45)
    model = model_or_skip(small, isa)
    logits = np.concatenate([model.run(values[row : row + 1], present[row : row + 1])[0] for row in range(WINDOWS)])
    np.testing.assert_allclose(logits, expected[0], atol=0.03 * expected[0].std())


@pytest.mark.parametrize(("samples", "channels"), [(200, 3), (37, 1)])
def test_steps_of_a_stream_are_those_of_the_network(samples, channels):
    data, values, present, _ = case("causal", samples, channels, "classification", 5)
    network, seen = networks["causal", samples, channels]
    steps = StepStudent(network, temperature=1.3, embeddings=seen).eval()
    model = NativeModel(data)
    stride, slots = network.encoder.stride, network.encoder.length
    assert model.step_samples == stride
    shapes = steps.state_shapes()
    state = steps.start()
    arrays = [np.zeros(shape, np.float32) for shape, _ in shapes.values()]
    inputs = [np.zeros((1, stride, channels), np.float32), np.zeros((1, stride, channels), np.float32)]
    inputs += [np.zeros((1, 1), np.float32), *arrays]
    news = [
        np.full_like(array if axis is None else array.take([0], axis), np.nan)
        for array, (_, axis) in zip(arrays, shapes.values(), strict=True)
    ]
    outputs = [np.zeros((1, 5), np.float32), np.zeros((1, 5), np.float32), np.zeros((1, 1), np.float32), *news]
    take = model.bind_step(inputs, outputs)
    rows, there = np.concatenate(list(values)), np.concatenate(list(present))
    for number in range(2 * slots):
        piece = slice(number * stride, (number + 1) * stride)
        inputs[0][0], inputs[1][0], inputs[2][0, 0] = rows[piece], there[piece], number % slots
        take()
        with torch.no_grad():
            found = steps(*(torch.from_numpy(array) for array in inputs[:3]), *state)
        for name, mine, expected in zip(("logits", "probabilities", "novelty", *shapes), outputs, found, strict=True):
            np.testing.assert_allclose(mine, expected.numpy(), rtol=2e-3, atol=2e-3, err_msg=f"{name} of step {number}")
        state = steps.kept(state, found[3:], number)
        for array, kept in zip(arrays, state, strict=True):
            array[...] = kept.numpy()


def test_threads_share_a_model_and_each_gets_its_own_answers():
    data, values, present, expected = case("average", 240, 2, "regression", 1)
    model = NativeModel(data)

    def answer(row):
        for _ in range(100):
            logits = model.run(values[row : row + 1], present[row : row + 1])[0]
            np.testing.assert_allclose(logits[0], expected[0][row], atol=2e-4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(8)))


def test_a_closed_model_says_so_and_denormals_count_again():
    data, values, present, _ = case("transformer", 33, 1, "multi_label", 2)
    model = NativeModel(data)
    model.run(values[:1], present[:1])
    assert np.float32(1e-40) * np.float32(0.5) > 0
    model.close()
    model.close()
    assert said(BackendError, model.run, values[:1], present[:1]) == "backend 'native' is closed; open it again"


@pytest.mark.slow
def test_the_sources_compile_without_a_warning_of_clang(tmp_path):  # GCC's: tests/export/targets/test_c_library.py
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    command = ["sh", "-c", 'exec clang "$@" -Werror -O0', "sh"]
    assert build(tmp_path / "libmmkd.so.1", compiler=command) == ""
    assert (tmp_path / "libmmkd.so.1").stat().st_size > 50_000


@pytest.mark.slow
def test_cppcheck_finds_nothing_in_the_sources():
    if shutil.which("cppcheck") is None:
        pytest.skip("needs cppcheck")
    kinds = ["--enable=warning,performance,portability", "--suppress=missingIncludeSystem", "--inline-suppr"]
    kinds += ["--suppress=normalCheckLevelMaxBranches", "--suppress=nullPointerOutOfResources"]
    files = [str(FOLDER / name) for name in SOURCES if name.startswith("src/") and name.endswith(".c")]
    command = ["cppcheck", "--std=c99", "-q", "--error-exitcode=1", *kinds, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_compiler_the_reason_is_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "/bin/false")
    reason = build(tmp_path / "libmmkd.so.1")
    assert reason.startswith("/bin/false: Command '['/bin/false', '-E', ")
    assert reason.endswith(" returned non-zero exit status 1.")
    assert list(tmp_path.iterdir()) == []


def changed(data, name, word, value, *, table=False):
    """The same file with a 32-bit word of a tensor, or of its entry in the table, replaced."""
    for number in range(struct.unpack_from("<I", data, 8)[0]):
        entry = 16 + 56 * number
        if data[entry : entry + 24].rstrip(b"\0") == name.encode():
            start = entry + 24 if table else struct.unpack_from("<Q", data, entry + 48)[0]
            return data[: start + 4 * word] + struct.pack("<i", value) + data[start + 4 * word + 4 :]
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "word", "value", "table", "message"),
    [
        ("sizes", 0, 0, False, "samples: is out of its range"),
        ("sizes", 1, 2**30, False, "channels: is out of its range"),
        ("sizes", 2, 17, False, "head.w: does not have the sizes that the model needs"),
        ("t.sizes", 1, 7, False, "heads: expected a divisor of the width"),
        ("t.sizes", 8, 1, False, "t.sizes: expected whole windows beside other members"),
        ("t.stem", 0, 0, False, "stride: is out of its range"),
        ("c.kernel", 0, 10_000, False, "dilation: is out of its range"),
        ("c.kernel", 7, -1, False, "c.kernel: is out of its range"),
        ("c.channel", 0, 2, False, "c.channel: is out of its range"),
        ("t.mean", 0, 0x7F800000, False, "t.mean: expected finite numbers"),
        ("head.w", 6, 0x7FFFFFC0, True, "head.w: lies outside of the file"),
        ("head.w", 2, 5, True, "head.w: does not have the sizes that the model needs"),
    ],
)
def test_a_number_out_of_its_range_is_refused(name, word, value, table, message):
    data, *_ = case("average", 240, 2, "regression", 1)
    told = f"backend 'native' cannot open the artifact: {message}"
    assert said(BackendError, NativeModel, changed(data, name, word, value, table=table)) == told


def test_a_file_that_is_cut_off_is_refused_at_every_length():
    data, *_ = case("transformer", 7, 2)
    for length in [*range(0, 3000, 7), *range(3000, len(data) - 64, 4999)]:
        said(BackendError, NativeModel, data[:length])


def test_altered_files_are_refused_or_answered_and_nothing_crashes():
    data, values, present, _ = case("average", 240, 2, "regression", 1)
    rng = np.random.default_rng(0)
    table = 16 + 56 * struct.unpack_from("<I", data, 8)[0]
    opened = 0
    for _ in range(400):
        altered = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            altered[rng.integers(0, table if rng.random() < 0.5 else len(data))] = rng.integers(0, 256)
        try:
            model = NativeModel(bytes(altered))
        except BackendError:
            continue
        opened += 1
        assert [part.shape for part in model.run(values[:1], present[:1])] == [(1, 1)] * (2 + model.has_novelty)
    assert 0 < opened < 400


OWN = [*FOLDER.glob("src/*.[ch]"), *FOLDER.glob("include/*.h")]


def test_the_engine_stays_small_enough_to_be_read():
    assert sum(len(path.read_text().splitlines()) for path in OWN) <= 4500


def functions_of(path):
    """Yield the head and the number of lines of the body of every function."""
    lines = path.read_text().splitlines()
    for end in (number for number, line in enumerate(lines) if line == "}"):
        start = max(number for number in range(end) if lines[number] == "{")
        head = start - 1
        while lines[head].startswith(" "):
            head -= 1
        yield " ".join(lines[head:start]), end - start - 1


FILES = pytest.mark.parametrize("path", sorted(FOLDER.glob("src/*.[ch]")), ids=lambda path: path.name)


@FILES
def test_no_function_is_longer_than_60_lines(path):
    assert [head for head, lines in functions_of(path) if lines > 60] == []


@FILES
def test_functions_belong_to_one_file_unless_they_have_the_prefix(path):
    heads = [head for head, _ in functions_of(path)]
    shared = [head for head in heads if not re.match(r"(__attribute__\(\(.*\)\) )?static |INLINE ", head)]
    assert [head for head in shared if path.suffix == ".h" or not re.search(r"\bmmkd_\w+\(", head)] == []


def test_the_compiler_checks_every_format():  # -Wformat=2 is among the flags
    text = "\n".join(path.read_text() for path in OWN)
    heads = re.findall(r"^.*\b(\w+)\((?:.*, )\.\.\.\)", text, re.MULTILINE)
    marked = re.findall(r"__attribute__\(\(format\(printf, .*\b(\w+)\(.*, \.\.\.\)", text)
    assert set(heads) == set(marked) == {"mmkd_error", "join"}
