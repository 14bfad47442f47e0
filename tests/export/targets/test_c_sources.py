"""The sources of `--target c` compile and pass their golden windows, here and on an emulated Cortex-M7."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import UsageError
from mmkd_edge.native import NativeModel
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_export.targets.c_sources import write_c_sources
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student, of_features
from tests.export.test_export_student_kinds import of_members

ACC = ModalitySpec(name="acc", channels=("x", 'y"', "z\u00e4"), rate_hz=50.0, samples=61, range=(-6.5, 6.5), unit="g")
BOARD = Path(__file__).with_name("mps2_an500")
M7 = "-O2 -mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16"


pytestmark = pytest.mark.usefixtures("native_engine")


KINDS = ["transformer", "causal", "convolutions", "trees", "int8"]


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "acc.ckpt"
    encoder = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
    config = StudentConfig(preset="toy", encoder=encoder, causal=request.param == "causal")
    student = make_student(modality=ACC, windows=12, config=config)
    if request.param == "convolutions":
        student = of_features(student, "convolutions")
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


def test_the_sources_compile_without_a_warning_and_answer_as_the_checkpoint(exported, tmp_path):
    folder = write_c_sources(exported)
    flags = "CFLAGS=-O2 -Wall -Wextra -Werror"
    done = subprocess.run(["make", "-C", folder, "test", flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict = done.stdout.splitlines()[-2]
    with Bundle.open(exported) as bundle:
        is_int8 = any(each.precision == "int8" for each in bundle.manifest.models[0].artifacts)
    assert verdict.endswith(": passed" if is_int8 else " of at most 100 millionths: passed")
    window = np.random.default_rng(3).normal(size=(61, 3)).astype(np.float32)
    window[4, 1], window[9, 0] = np.nan, 70.0
    values = ", ".join(value.hex() if np.isfinite(value) else "NAN" for value in window.ravel().tolist())
    (tmp_path / "one.c").write_text(
        f'#include <math.h>\n#include <stdio.h>\n#include "student.h"\nint main(void)\n{{\n'
        f"    static const float window[] = {{{values}}};\n    float answers[STUDENT_OUTPUTS];\n"
        "    int best = student_predict(window, answers, 0);\n"
        '    printf("%s %s %.6f\\n", student_labels[best], student_channels[1], (double)answers[best]);\n'
        "    return 0;\n}\n"
    )
    library = [f"-I{folder}", f"{folder}/libstudent.a", "-lm"]
    subprocess.run(["cc", str(tmp_path / "one.c"), *library, "-o", str(tmp_path / "one")], check=True)
    answer = subprocess.run([tmp_path / "one"], capture_output=True, text=True, check=True).stdout
    with EdgePredictor.open(exported, backend="native", precision="int8" if is_int8 else "fp32") as predictor:
        expected = predictor.predict(window)
    assert answer == f'{expected.label} y" {expected.probability:.6f}\n'


@pytest.mark.parametrize(  # trees are an average with a transformer
    "exported",
    [kind if kind in ("trees", "int8") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
    indirect=True,
)
def test_a_cortex_m7_passes_the_golden_windows(exported):
    compiler, emulator = "arm-none-eabi-gcc", "qemu-system-arm"
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"needs {compiler} and {emulator}")
    folder = write_c_sources(exported)
    start = folder / "start.o"
    subprocess.run([compiler, *M7.split(), "-c", BOARD / "start.c", "-o", start], check=True)
    links = f"{start} -T {BOARD / 'board.ld'} --specs=rdimon.specs -nostartfiles"
    tools = [f"CC={compiler}", "AR=arm-none-eabi-ar", f"CFLAGS={M7}", f"LDFLAGS={links}"]
    made = subprocess.run(
        ["make", "-C", folder, "self_test", "size", *tools], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    text, data, bss = map(int, made.stdout.splitlines()[-2].split()[:3])  # linked with libm, without golden windows
    with Bundle.open(exported) as bundle:
        files = [each for each in bundle.manifest.models[0].artifacts if each.format == "native"]
        tensors = bundle.read(min(files, key=lambda each: each.size_bytes).file)
    assert 10_000 < text - len(tensors) < 80_000
    assert NativeModel(tensors).scratch_bytes < data + bss < NativeModel(tensors).scratch_bytes + 20_000
    assert "mmkd_run" in (folder / "student.map").read_text()
    machine = [emulator, "-M", "mps2-an500", "-nographic", "-semihosting-config", "enable=on,target=native"]
    run = [*machine, "-kernel", folder / "self_test"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split(": ")[-1]) == (0, "passed\n")


def test_what_has_no_sources_is_refused_with_what_else_helps(tmp_path):
    write_student(tmp_path / "s.ckpt", make_student(windows=12))
    path = export(export_plan(tmp_path / "s.ckpt")).path
    with pytest.raises(UsageError) as error:
        export(replace(export_plan(path), targets=("c",)))
    assert str(error.value) == (
        f"{path}: --target c: expected a native artifact, which series of up to 1,024 samples have; for C at "
        f"onnxruntime's speed run: pip install emx-onnx-cgen && python -m zipfile -e {path} parts && "
        "emx-onnx-cgen compile parts/acc/model.fp32.onnx student.c --large-weight-threshold 0"
    )
    assert not (tmp_path / "s-c").exists()
    modality = ModalitySpec(name="acc", channels=("x",), rate_hz=50.0, samples=40, normalise="per_group")
    task = TaskSpec(kind="regression", labels=("wear",))
    write_student(tmp_path / "g.ckpt", make_student(modality=modality, task=task, windows=24))
    plan = replace(export_plan(tmp_path / "g.ckpt"), targets=("native", "c"))
    with pytest.raises(UsageError) as refused:
        export(plan)
    assert str(refused.value) == (
        f"{tmp_path / 'g.edge'}: --target c: a modality normalised per group needs a reference; use the C library"
    )
