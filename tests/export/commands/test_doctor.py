import importlib.util
import json
import subprocess
import sys

import pytest

from mmkd_export.inspect.doctor import Check, examine


def _tree(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _find(diagnosis, what):
    (check,) = [check for check in (*diagnosis.machine, *diagnosis.checks) if check.what == what]
    return check


def _orin(root, release):
    (root / "proc" / "device-tree").mkdir(parents=True)
    (root / "proc" / "device-tree" / "model").write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    cpuinfo = "model name\t: ARMv8 Processor rev 1 (v8l)\nFeatures\t: fp asimd asimddp\n"
    return _tree(root, etc__nv_tegra_release=release, proc__cpuinfo=cpuinfo)


def test_this_machine_runs_bundles_and_has_no_board(tmp_path):
    diagnosis = examine()
    assert diagnosis.runs_bundles
    assert _find(diagnosis, "run bundles: ort").found.startswith("onnxruntime ")
    assert _find(diagnosis, "mmkd-export").status == "ok"
    diagnosis = examine(_tree(tmp_path, proc__cpuinfo="model name\t: Old CPU\nflags\t: sse avx2\n"))
    assert not {"board", "JetPack", "power mode"} & {check.what for check in diagnosis.machine}
    assert _find(diagnosis, "INT8 arithmetic") == Check(
        what="INT8 arithmetic",
        status="missing",
        advice="INT8 artifacts will not be faster here, and may lose accuracy on x86: use fp32",
    )
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    assert _find(examine(_tree(tmp_path, proc__driver__nvidia__version=text)), "NVIDIA driver").found == "580.65.06"


OLD_TRT = "TensorRT 8.6 cannot read opset 20: update to JetPack 6.2 for engines; onnxruntime works"


@pytest.mark.parametrize(
    ("release", "revision", "found", "advice"),
    [
        (36, "4.3", "6.1 or 6.2 (L4T 36.4)", ""),
        (38, "2.0", "7.0 (L4T 38.2)", ""),
        (39, "2.0", "7.2 (L4T 39.2)", ""),
        (36, "3.0", "6.0 (L4T 36.3)", OLD_TRT),
        (35, "4.1", "5 or earlier (L4T 35.4)", "Python 3.8 is too old: update to JetPack 6.2"),
    ],
)
def test_a_jetson_is_recognised(tmp_path, release, revision, found, advice):
    root = _orin(tmp_path, f"# R{release} (release), REVISION: {revision}, GCID: 1")
    diagnosis = examine(root, power_mode=lambda: "MAXN_SUPER")
    jetpack = _find(diagnosis, "JetPack")
    assert (jetpack.status, jetpack.found, jetpack.advice) == ("problem" if advice else "ok", found, advice)
    assert _find(diagnosis, "board").found == "NVIDIA Jetson Orin Nano Developer Kit"
    assert _find(diagnosis, "power mode").found == "MAXN_SUPER"
    assert _find(diagnosis, "INT8 arithmetic").found == "asimddp"
    assert _find(diagnosis, "processor").found.startswith("ARMv8 Processor rev 1 (v8l), ")


def _run(script):
    script += "\nfrom mmkd_app.commands.doctor import main\nmain()\n"
    return subprocess.run([sys.executable, "-c", script, "--json"], capture_output=True, text=True, check=False)


def test_without_any_library_it_names_every_command_that_installs_them():
    done = _run(
        "import sys\n"
        "for name in ('torch', 'safetensors', 'lightning_fabric', 'sklearn', 'tensorboard', 'onnx', 'onnxscript',\n"
        "             'onnxruntime', 'openvino', 'typer', 'rich', 'psutil', 'tensorrt', 'tensorrt_rtx', 'cuda',\n"
        "             'ai_edge_litert', 'litert_torch', 'ai_edge_quantizer', 'paho', 'pymodbus', 'asyncua',\n"
        "             'psycopg'):\n"
        "    sys.modules[name] = None\n"
    )
    assert done.returncode == 3
    assert done.stderr == "mmkd-doctor: no bundle can be run here; run: pip install 'mmkd-edge[ort]'\n"
    checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    for here in ("NVIDIA driver", "run bundles: native"):
        checks.pop(here, None)
    assert {check["status"] for check in checks.values()} == {"missing"}
    assert checks["mmkd-export"]["found"] == "no torch, safetensors, onnx, onnxscript, onnxruntime, typer, rich"
    assert checks["mmkd-run: PostgreSQL"]["found"] == "no typer, rich, psycopg"
    assert checks["mmkd-run: PostgreSQL"]["advice"] == "pip install 'mmkd-edge[databases]'"
    assert checks["mmkd-export"]["advice"] == "pip install 'mmkd-edge[export]'"


@pytest.mark.slow
def test_a_library_that_does_not_load_is_a_problem_with_its_reason(tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvdla_compiler.so: cannot open shared object file')\n")
    (tmp_path / "openvino.py").write_text("raise OSError('illegal instruction')\n")
    done = _run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["engines: TensorRT"] == {
        "what": "engines: TensorRT",
        "status": "problem",
        "found": "tensorrt does not load: libnvdla_compiler.so: cannot open shared object file",
        "advice": "the container's TensorRT is for another JetPack than the host's: use the image of that JetPack",
    }
    assert checks["run bundles: openvino"]["found"] == "openvino does not load: illegal instruction"
    assert checks["run bundles: openvino"]["advice"] == "install it again: pip install 'mmkd-edge[openvino]'"


def test_a_gpu_is_named_with_what_runs_on_it(tmp_path, gpu_double, monkeypatch):
    tensorrt = gpu_double.install(monkeypatch, tmp_path)
    found = "tensorrt 10.3.0 on Double, compute capability 8.7, CUDA 12.6"
    assert _find(examine(), "run bundles: trt") == Check(what="run bundles: trt", status="ok", found=found)
    tensorrt.cuda.driver = 0
    check = _find(examine(), "run bundles: trt")
    assert check.status == "problem"
    assert check.found.startswith("no GPU answers: cudaErrorInsufficientDriver: ")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs pip install 'mmkd-edge[openvino]'")
def test_looking_at_openvino_reports_nothing_to_anyone():
    done = _run(
        "import sys\n"
        "for name in ('torch', 'lightning_fabric', 'tensorboard', 'sklearn', 'psutil'): sys.modules[name] = None\n"
        "def refuse(event, arguments):\n"
        "    import os\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'os.fork'): os._exit(9)\n"
        "sys.addaudithook(refuse)"
    )
    assert done.returncode == 0
    checks = {check["what"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert checks["run bundles: openvino"] == "ok"
