"""What this machine can run, lacks and needs. Works without extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from mmkd_edge.backends.base import BACKENDS, why_absent
from mmkd_edge.backends.openvino import import_openvino
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.backends.trt.cuda import device_facts, load_runtime
from mmkd_edge.backends.trt.needs import installed_library, load_library
from mmkd_edge.errors import UnavailableError, first_line
from mmkd_edge.machine import ROOT, board_name, cpu_name, read_text, usable_cores
from mmkd_edge.native import library
from mmkd_export.preflight import FOR_CHECKPOINT
from mmkd_export.targets.table import TARGETS, Format

# First Linux for Tegra version of each JetPack (NVIDIA's JetPack archive).
_JETPACKS = (
    ((39, 0), "7.2", ""),
    ((38, 4), "7.1", ""),
    ((38, 0), "7.0", ""),
    ((36, 4), "6.1 or 6.2", ""),
    ((36, 0), "6.0", "TensorRT 8.6 cannot read opset 20: update to JetPack 6.2 for engines; onnxruntime works"),
    ((0, 0), "5 or earlier", "Python 3.8 is too old: update to JetPack 6.2"),
)
_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
_DLA_LIBRARY = "libnvdla_compiler.so"
_DISTRIBUTIONS = {
    "lightning_fabric": "lightning-fabric",
    "sklearn": "scikit-learn",
    "cuda.bindings": "cuda-bindings",
    "paho.mqtt": "paho-mqtt",
}
# Imported so that they report nothing over the network.
_IMPORTS: dict[str, Callable[[], Any]] = {"onnxruntime": import_onnxruntime, "openvino": import_openvino}


Status = Literal["ok", "missing", "problem"]


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One check: `missing` is not installed, `problem` does not work."""

    what: str
    status: Status
    found: str = ""
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All checks of a machine."""

    machine: tuple[Check, ...]
    checks: tuple[Check, ...]
    runs_bundles: bool


class _Ability(NamedTuple):
    what: str
    modules: tuple[str, ...]
    advice: str
    is_imported: bool = True


_BACKENDS = tuple(
    _Ability(f"run bundles: {name}", (row.library()[0],), f"pip install 'mmkd-edge[{name}]'")
    for name, row in BACKENDS.items()
    if not row.on_gpu and not row.is_own
)
_ABILITIES = (
    _Ability("mmkd-bench", ("onnxruntime", "typer", "rich", "psutil"), "pip install 'mmkd-edge[ort,bench]'"),
    _Ability(
        "mmkd-train, mmkd-distill",
        ("torch", "safetensors", "lightning_fabric", "sklearn", "tensorboard", "typer", "rich"),
        "pip install 'mmkd-edge[train]'",
    ),
    _Ability("mmkd-export", (*FOR_CHECKPOINT, "typer", "rich"), "pip install 'mmkd-edge[export]'"),
    *(  # litert's imports jax, takes seconds and writes to the terminal
        _Ability("mmkd-export --target " + row.name, row.libraries, f"pip install '{row.extra}'", is_imported=False)
        for row in TARGETS
        if row.libraries and isinstance(row.adds, Format)
    ),
    *(
        _Ability(f"mmkd-run: {what}", ("typer", "rich", *modules), f"pip install 'mmkd-edge[{extra}]'")
        for what, modules, extra in (
            ("files, InfluxDB", (), "live"),
            ("MQTT, Sparkplug", ("paho.mqtt",), "live"),
            ("Modbus", ("pymodbus",), "live"),
            ("OPC UA", ("asyncua",), "live,opcua"),
            ("PostgreSQL", ("psycopg",), "databases"),
            ("Kafka", ("confluent_kafka",), "kafka"),
        )
    ),
    _Ability(
        "engines: TensorRT",
        ("tensorrt",),
        "sudo apt-get install python3-libnvinfer, and make the environment with --system-site-packages",
    ),
    _Ability("engines: GPU facts", ("cuda.bindings",), "pip install 'mmkd-edge[trt]'"),
    _Ability("engines: TensorRT-RTX", ("tensorrt_rtx",), "pip install 'mmkd-edge[trt-rtx]' (GeForce RTX only)"),
)


def examine(root: Path = ROOT, *, power_mode: Callable[[], str | None] = lambda: None) -> Diagnosis:
    """Check a machine with its file system at `root`."""
    backends = [*map(_check_ability, _BACKENDS), _check_trt(), _check_native()]
    without_onnx = {f"run bundles: {name}" for name, row in BACKENDS.items() if "onnx" not in row.formats}
    return Diagnosis(
        machine=tuple(_check_machine(root, power_mode)),
        checks=(*backends, *map(_check_ability, _ABILITIES), _check_driver(root)),
        runs_bundles=any(check.status == "ok" and check.what not in without_onnx for check in backends),
    )


def _check_machine(root: Path, power_mode: Callable[[], str | None]) -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield Check(what="system", status="ok", found=system)
    yield Check(what="mmkd-edge", status="ok", found=importlib.metadata.version("mmkd-edge"))
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    yield Check(what="processor", status="ok", found=f"{cpu_name(cpuinfo)}, {usable_cores()} usable cores")
    features = [feature for feature in _INT8_FEATURES if feature in cpuinfo.split()]
    yield Check(
        what="INT8 arithmetic",
        status="ok" if features else "missing",
        found=" ".join(features),
        advice="" if features else "INT8 artifacts will not be faster here, and may lose accuracy on x86: use fp32",
    )
    if board := board_name(root):
        yield Check(what="board", status="ok", found=board)
    release = read_text(root / "etc/nv_tegra_release") or ""
    if match := re.search(r"# R(\d+) \(release\), REVISION: (\d+)\.", release):
        version = (int(match[1]), int(match[2]))
        name, advice = next((name, advice) for first, name, advice in _JETPACKS if version >= first)
        found = f"{name} (L4T {version[0]}.{version[1]})"
        yield Check(what="JetPack", status="problem" if advice else "ok", found=found, advice=advice)
    if mode := power_mode():
        yield Check(what="power mode", status="ok", found=mode)


def _check_ability(ability: _Ability) -> Check:
    texts: dict[Status, list[str]] = {"ok": [], "missing": [], "problem": []}
    for module in ability.modules:
        status, text = _try_module(module, is_imported=ability.is_imported)
        texts[status].append(text)
    if faults := texts["problem"]:
        advice = f"install it again: {ability.advice}"
        if any(_DLA_LIBRARY in fault for fault in faults):
            advice = "the container's TensorRT is for another JetPack than the host's: use the image of that JetPack"
        return Check(what=ability.what, status="problem", found="; ".join(faults), advice=advice)
    if missing := texts["missing"]:
        return Check(what=ability.what, status="missing", found=f"no {', '.join(missing)}", advice=ability.advice)
    return Check(what=ability.what, status="ok", found=", ".join(texts["ok"]))


def _check_native() -> Check:
    what, absence = "run bundles: native", why_absent("native")
    if absence:
        return Check(what=what, status="missing", found=absence, advice="install a C compiler and reinstall it")
    try:
        library()
    except UnavailableError as error:
        return Check(what=what, status="problem", found=str(error))
    return Check(what=what, status="ok", found="the C engine of mmkd-edge is built")


def _check_trt() -> Check:
    what = "run bundles: trt"
    library = installed_library()
    absence = why_absent("trt")
    if library is None or absence:
        return Check(what=what, status="missing", advice=absence)
    try:
        version = load_library(library).__version__
        gpu = device_facts(load_runtime())
    except UnavailableError as error:
        return Check(what=what, status="problem", found=str(error), advice="see the lines about engines below")
    cuda = f"{gpu.cuda_runtime // 1000}.{gpu.cuda_runtime % 1000 // 10}"
    found = f"{library} {version} on {gpu.name}, compute capability {gpu.compute_capability}, CUDA {cuda}"
    return Check(what=what, status="ok", found=found)


def _try_module(module: str, *, is_imported: bool) -> tuple[Status, str]:
    """Return whether a module loads, with its version, its name if it is missing, or the fault."""
    try:
        if is_imported:
            _IMPORTS.get(module, lambda: importlib.import_module(module))()
        elif importlib.util.find_spec(module) is None:
            return "missing", module
    except ModuleNotFoundError as error:
        is_own = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
        return ("missing", module) if is_own else ("problem", f"{module} does not load: {error}")
    except Exception as error:  # a native library may fail in any way
        return "problem", f"{module} does not load: {first_line(error)}"
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        version = getattr(importlib.import_module(module), "__version__", "of unknown version")
    return "ok", f"{module.partition('.')[0]} {version}"


def _check_driver(root: Path) -> Check:
    text = read_text(root / "proc/driver/nvidia/version") or ""
    match = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text)
    if match is not None:
        return Check(what="NVIDIA driver", status="ok", found=match[1])
    advice = "only engines need it; on a workstation install NVIDIA's driver, on a Jetson it is part of JetPack"
    return Check(what="NVIDIA driver", status="missing", advice=advice)
