"""The sources of `--target c` compile and pass their golden windows, here and on an emulated Cortex-M7."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.derive import derived_modality
from mmkd_edge.errors import UsageError
from mmkd_edge.native import NativeModel
from mmkd_edge.predict.novelty import smallest_level
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_export.targets import c_sources
from mmkd_export.targets.c_sources import write_c_sources
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student
from tests.edge.said import said
from tests.export.students import export_student, make_student, of_features
from tests.export.test_export_student_kinds import of_members
from tests.export.test_novelty import with_seen

ACC = ModalitySpec(name="acc", channels=("x", 'y"', "z\u00e4"), rate_hz=50.0, samples=61, range=(-6.5, 6.5), unit="g")
M7 = "-O2 -mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16"


CONV = "convolutions"

pytestmark = pytest.mark.usefixtures("native_engine")


# Trees are an average with a transformer.
KINDS = ["trees", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("transformer", "causal", CONV))]
SLOW_INT8 = pytest.param("int8", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["int8", *KINDS])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "acc.ckpt"
    encoder = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
    config = StudentConfig(preset="toy", encoder=encoder, causal=request.param == "causal")
    modality = derived_modality('acc[x,y"]@1s,25Hz', [ACC]) if request.param == "int8" else ACC
    student = make_student(modality=modality, windows=12, config=config)
    if request.param == CONV:
        student = of_features(student, CONV)
    elif request.param == "trees":
        student = of_members("transformer,intervals,trees", like=student)
    write_student(path, student)
    plan = replace(export_plan(path), targets=("native", "c"), platform="mcu")
    if request.param == "int8":
        plan = replace(plan, precisions=("int8",), accept_unjudged=True)
    result = export(plan)
    if request.param == "int8":
        (whole, small) = [each for each in result.manifest.models[0].artifacts if each.format == "native"]
        assert (small.precision, small.size_bytes < whole.size_bytes / 2) == ("int8", True)
    assert result.folders == (str(path.with_name("acc-c")),)
    return result.path


def test_the_sources_compile_without_a_warning_and_answer_as_the_checkpoint(exported, tmp_path, request):
    folder = write_c_sources(exported)
    level = "-O2" if request.node.callspec.params["exported"] == "transformer" else "-O0"  # the engine is the same
    flags = f"CFLAGS={level} -Wall -Wextra -Werror"
    done = subprocess.run(["make", "-C", folder, "loop", "test", flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict = done.stdout.splitlines()[-2]
    with Bundle.open(exported) as bundle:
        is_int8 = any(each.precision == "int8" for each in bundle.manifest.models[0].artifacts)
    assert verdict.endswith(": passed" if is_int8 else " of at most 100 millionths: passed")
    window = np.random.default_rng(3).normal(size=(61, 3)).astype(np.float32)
    window[14, 1], window[19, 0] = np.nan, 70.0
    window = window[11:] if is_int8 else window  # the newest second, of which its sensor is derived
    values = ", ".join(value.hex() if np.isfinite(value) else "NAN" for value in window.ravel().tolist())
    text = (
        f'#include <math.h>\n#include <stdio.h>\n#include "student.h"\nint main(void)\n{{\n'
        f"    static const float window[] = {{{values}}};\n    float answers[STUDENT_OUTPUTS];\n"
        f"    int best = student_predict{'_recorded' if is_int8 else ''}(window, answers, 0);\n"
        '    printf("%s %s %.6f\\n", student_labels[best], student_channels[1], (double)answers[best]);\n'
        "    return 0;\n}\n"
    )
    library = [f"-I{folder}", f"{folder}/libstudent.a", "-lm"]
    answers = []
    for compiler, name in (("cc", "one.c"), ("c++", "one.cpp")):
        (tmp_path / name).write_text(text)
        subprocess.run([compiler, tmp_path / name, *library, "-o", tmp_path / "one"], check=True)
        answers.append(subprocess.run([tmp_path / "one"], capture_output=True, text=True, check=True).stdout)
    with EdgePredictor.open(exported, backend="native", precision="int8" if is_int8 else "fp32") as predictor:
        expected = predictor.predict({"acc": window} if is_int8 else window)
    assert answers == [f'{expected.label} y" {expected.probability:.6f}\n'] * 2


def needs_an_emulated_board():
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


@pytest.mark.parametrize("exported", [*KINDS, SLOW_INT8], indirect=True)
def test_a_cortex_m7_passes_the_golden_windows(exported):
    needs_an_emulated_board()
    folder = write_c_sources(exported)
    verdict, count = emulated(folder)
    assert verdict.endswith(": passed")
    instructions, stack = map(
        int, re.fullmatch(r"(\d+) instructions and (\d+) bytes of stack a window", count).groups()
    )
    assert 100_000 < instructions < 10_000_000
    assert 200 < stack < 8_000
    tools = ["CC=arm-none-eabi-gcc", "AR=arm-none-eabi-ar", f"CFLAGS={M7}", "LDFLAGS=--specs=rdimon.specs"]
    made = subprocess.run(["make", "-C", folder, "size", *tools], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    text, data, bss = map(int, made.stdout.splitlines()[-2].split()[:3])  # linked with libm, without golden windows
    with Bundle.open(exported) as bundle:
        files = [each for each in bundle.manifest.models[0].artifacts if each.format == "native"]
        tensors = bundle.read(min(files, key=lambda each: each.size_bytes).file)
    assert 10_000 < text - len(tensors) < 80_000
    assert NativeModel(tensors).scratch_bytes < data + bss < NativeModel(tensors).scratch_bytes + 20_000
    assert "mmkd_run" in (folder / "student.map").read_text()


def emulated(folder, *options):
    """Return the last two lines of `make emulate`."""
    make = ["make", "-C", folder, "--no-print-directory", "emulate", *options]
    done = subprocess.run(make, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


def write_stub(folder, body):
    """Write the sources of a student whose `student_predict` has this body."""
    for name in ("Makefile", "start.c", "board.ld"):
        shutil.copyfile(Path(c_sources.__file__).with_name("c") / name, folder / name)
    head = "enum { STUDENT_OUTPUTS = 1 };\nint student_predict(const float *, float *, float *);\n"
    (folder / "student.h").write_text(head)
    (folder / "windows.c").write_text("const unsigned student_windows[1] = {0};\n")
    (folder / "test.c").write_text("int main(void) { return 0; }\n")
    (folder / "student.c").write_text(
        f'#include "student.h"\nint student_predict(const float *window, float *answers, float *novelty)\n{{\n{body}'
        "    return !window + !answers + !novelty;\n}\n"
    )


def test_emulation_counts_the_instructions_of_a_loop(tmp_path):
    needs_an_emulated_board()
    write_stub(tmp_path, '    __asm__ volatile("ldr r0, =1000000\\n1: subs r0, #1\\n bne 1b" ::: "r0", "cc");\n')
    count = int(emulated(tmp_path, "OBJECTS=student.o")[-1].partition(" instructions and ")[0])
    assert abs(count - 2_000_001) <= 80  # a tick is 40 instructions


def test_what_one_compiler_made_is_made_anew_for_another_and_for_other_flags(tmp_path):
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    write_stub(tmp_path, "")
    compiled = []
    for line in ("test", "test", "size CC=arm-none-eabi-gcc", "test", "test CFLAGS=-O0"):
        make = ["make", "-C", tmp_path, "OBJECTS=student.o", *line.split()]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        compiled.append("-c student.c" in done.stdout)
    assert compiled == [True, False, True, True, True]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A bundle with novelty and limits of magnitude, and its sources."""
    data = open_dataset(shipped_dataset()).spec
    student = with_seen(of_features(make_student(modality=data.modality("acc"), task=data.task, windows=60), CONV))
    options = {"targets": ("native", "c"), "drift_reference": shipped_dataset()}
    path = export_student(tmp_path_factory.mktemp("judged"), student, **options).path
    return path, path.with_name("student-c")


def loop_samples(path, channels):
    """Windows as the student knows them, others of a tenth and ten times their size, noise, and a dead sensor."""
    with Bundle.open(path) as bundle:
        windows = bundle.golden(bundle.manifest.models[0].name).windows[:6, :, :channels]
    usual = np.concatenate(windows).round(3)
    noise = np.random.default_rng(2).normal(0.0, 1.0, size=usual.shape).round(3)
    return np.concatenate([usual, 0.1 * usual, noise, np.full((250, channels), np.nan), 10.0 * usual])


def stream_lines(path, samples, *, hop, level):
    """What the example prints if it answers as a stream of Python does, which also calls windows degraded."""
    with EdgePredictor.open(path, backend="native", unknown_level=level) as predictor:
        answers = [each for each in predictor.stream(hop=hop).push(samples) if each.status != "warming_up"]
    status = {"degraded": "ok"}
    return [f"{status.get(each.status, each.status)} {each.label} {each.probability:.3f}" for each in answers]


@pytest.mark.parametrize("board", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loop_of_a_board_answers_as_a_stream_does_and_calls_the_same_windows_unknown(judged, board):
    path, folder = judged
    samples = loop_samples(path, 3).astype(np.float32)
    text = "\n".join(",".join(f"{value:g}" for value in row) for row in samples.tolist())
    if board:
        needs_an_emulated_board()
    for hop, level in ((50, 0.05), (200, None)):
        flags = f"-O1 -Wall -Wextra -Werror -DHOP={hop}" + (f" -DLEVEL={level}" if level else "")
        target = ["emulate", "MAIN=loop", f"M7={M7} {flags}"] if board else ["loop", f"CFLAGS={flags}"]
        make = ["make", "-s", "--no-print-directory", "-C", folder, *target]
        done = subprocess.run(make, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = done.stdout if board else subprocess.check_output([folder / "loop"], input=text, text=True)
        lines = [line for line in printed.splitlines() if line.startswith(("ok", "unknown", "invalid"))]
        expected = stream_lines(path, samples, hop=hop, level=level)
        assert {line.split()[0] for line in lines} == {"ok", "unknown", "invalid"}
        assert lines == expected


def test_the_header_names_scores_and_limits_of_what_is_unknown(judged):
    path, folder = judged
    with Bundle.open(path) as bundle:
        (entry,) = bundle.manifest.models
        (artifact,) = [each for each in entry.artifacts if each.format == "native"]
    head, scores = (folder / "student.h").read_text(), artifact.novelty.scores
    assert f"enum {{ STUDENT_SCORES = {len(scores)} }};" in head
    assert "#define STUDENT_LEVEL 0 /* EdgePredictor's, unless" in head
    limits = entry.group_reference.magnitude
    assert f"its size is not {limits.lowest:.2g} to {limits.highest:.2g} times the usual" in head
    assert f"Levels from {smallest_level(len(scores)):g} on count." in head


def test_what_has_no_sources_is_refused_with_what_else_helps(tmp_path):
    write_student(tmp_path / "s.ckpt", make_student(windows=12))
    path = export(export_plan(tmp_path / "s.ckpt")).path
    assert said(UsageError, export, replace(export_plan(path), targets=("c",))) == (
        f"{path}: --target c: expected a native artifact, which series of up to 1,024 samples have; for C at "
        f"onnxruntime's speed run: pip install emx-onnx-cgen && python -m zipfile -e {path} parts && "
        "emx-onnx-cgen compile parts/acc/model.fp32.onnx student.c --large-weight-threshold 0"
    )
    assert not (tmp_path / "s-c").exists()
    modality = ModalitySpec(name="acc", channels=("x",), rate_hz=50.0, samples=40, normalise="per_group")
    task = TaskSpec(kind="regression", labels=("wear",))
    write_student(tmp_path / "g.ckpt", make_student(modality=modality, task=task, windows=24))
    assert said(UsageError, export, replace(export_plan(tmp_path / "g.ckpt"), targets=("native", "c"))) == (
        f"{tmp_path / 'g.edge'}: --target c: a modality normalised per group needs a reference; use the C library"
    )
