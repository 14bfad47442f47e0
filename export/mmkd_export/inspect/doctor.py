"""What this machine can run, what it lacks, and the command that installs it.

Owns the questions; imports libraries one by one to see whether they load, and installs nothing. Needs only what the
runtime needs, because the machine that wants a doctor has little installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from mmkd_edge.backends.base import BACKENDS, why_absent
from mmkd_edge.backends.openvino import import_openvino
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.backends.trt.cuda import device_facts, load_runtime
from mmkd_edge.backends.trt.needs import installed_library, load_library
from mmkd_edge.errors import UnavailableError, first_line
from mmkd_edge.machine import cpu_name
from mmkd_export.preflight import FOR_CHECKPOINT
from mmkd_export.targets.table import TARGETS

CheckStatus = Literal["ok", "missing", "problem"]

ROOT = Path("/")

# Linux for Tegra to JetPack, by the first version that belongs to it (NVIDIA's JetPack archive).
_JETPACKS = (
    ((39, 0), "7.2", None),
    ((38, 4), "7.1", None),
    ((38, 0), "7.0", None),
    ((36, 4), "6.1 or 6.2", None),
    ((36, 0), "6.0", "TensorRT 8.6 cannot read opset 20: update to JetPack 6.2 for engines; onnxruntime works"),
    ((0, 0), "5 or earlier", "Python 3.8 is too old: update to JetPack 6.2"),
)
_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
_DLA_LIBRARY = "libnvdla_compiler.so"


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer.

    Attributes:
        status: `ok`, `missing` where something is not installed, `problem` where it is and does not work.
    """

    what: str
    status: CheckStatus
    found: str = ""
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All answers."""

    machine: tuple[Check, ...]
    checks: tuple[Check, ...]
    runs_bundles: bool


@dataclass(frozen=True, kw_only=True)
class _Ability:
    """Something that a set of modules gives; `tried` modules are imported, others only looked for."""

    what: str
    modules: tuple[str, ...]
    advice: str
    tried: bool = True


_BACKENDS = tuple(
    _Ability(what=f"run bundles: {name}", modules=(row.library()[0],), advice=f"pip install 'mmkd-edge[{name}]'")
    for name, row in BACKENDS.items()
    if not row.on_gpu
)
_WITHOUT_ONNX = {f"run bundles: {name}" for name, row in BACKENDS.items() if "onnx" not in row.formats}
_COMMANDS = (
    _Ability(
        what="mmkd-bench",
        modules=("onnxruntime", "typer", "rich", "psutil"),
        advice="pip install 'mmkd-edge[ort,bench]'",
    ),
    _Ability(
        what="mmkd-train, mmkd-distill",
        modules=("torch", "safetensors", "lightning_fabric", "sklearn", "tensorboard", "typer", "rich"),
        advice="pip install 'mmkd-edge[train]'",
    ),
    _Ability(
        what="mmkd-export",
        modules=(*FOR_CHECKPOINT, "typer", "rich"),
        advice="pip install 'mmkd-edge[export]'",
    ),
    *(
        _Ability(
            what=" ".join(("mmkd-export", "--target", target.name)),
            modules=target.libraries,
            advice=f"pip install '{target.extra}'",
            tried=False,  # litert's brings jax, takes seconds and writes to the terminal
        )
        for target in TARGETS
        if target.convert is not None
    ),
)
_ENGINES = (
    _Ability(
        what="engines: TensorRT",
        modules=("tensorrt",),
        advice="sudo apt-get install python3-libnvinfer, and make the environment with --system-site-packages",
    ),
    _Ability(what="engines: GPU facts", modules=("cuda.bindings",), advice="pip install 'mmkd-edge[trt]'"),
    _Ability(
        what="engines: TensorRT-RTX",
        modules=("tensorrt_rtx",),
        advice="pip install 'mmkd-edge[trt-rtx]' (GeForce RTX only)",
    ),
)

_DISTRIBUTIONS = {"lightning_fabric": "lightning-fabric", "sklearn": "scikit-learn", "cuda.bindings": "cuda-bindings"}


def examine(root: Path = ROOT, *, power_mode: Callable[[], str | None] = lambda: None) -> Diagnosis:
    """Asks everything.

    Args:
        root: where the file system begins; `/`, or a recorded tree.
        power_mode: gives the power mode of a board, None where it has none.
    """
    backends = [*(_ability(ability) for ability in _BACKENDS), _trt()]
    others = [_ability(ability) for ability in (*_COMMANDS, *_ENGINES)]
    return Diagnosis(
        machine=tuple(_machine(root, power_mode)),
        checks=(*backends, *others, _driver(root)),
        runs_bundles=any(check.status == "ok" and check.what not in _WITHOUT_ONNX for check in backends),
    )


def _machine(root: Path, power_mode: Callable[[], str | None]) -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield Check(what="system", status="ok", found=system)
    yield Check(what="mmkd-edge", status="ok", found=importlib.metadata.version("mmkd-edge"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(what="processor", status="ok", found=f"{cpu_name(_text(root / 'proc/cpuinfo'))}, {cores} usable cores")
    features = _int8_features(_text(root / "proc/cpuinfo"))
    yield Check(
        what="INT8 arithmetic",
        status="ok" if features else "missing",
        found=" ".join(features),
        advice="" if features else "INT8 artifacts will not be faster here, and may lose accuracy on x86: use fp32",
    )
    board = _text(root / "proc/device-tree/model").rstrip("\0")
    if board:
        yield Check(what="board", status="ok", found=board)
    yield from _jetpack(_text(root / "etc/nv_tegra_release"))
    mode = power_mode()
    if mode is not None:
        yield Check(what="power mode", status="ok", found=mode)


def _jetpack(release: str) -> Iterator[Check]:
    found = re.search(r"# R(\d+) \(release\), REVISION: (\d+)\.", release)
    if found is None:
        return
    version = (int(found[1]), int(found[2]))
    name, advice = next((name, advice) for first, name, advice in _JETPACKS if version >= first)
    yield Check(
        what="JetPack",
        status="ok" if advice is None else "problem",
        found=f"{name} (L4T {version[0]}.{version[1]})",
        advice=advice or "",
    )


def _int8_features(cpuinfo: str) -> list[str]:
    words = set(cpuinfo.split())
    return [feature for feature in _INT8_FEATURES if feature in words]


def _ability(ability: _Ability) -> Check:
    missing, broken, versions = [], [], []
    for module in ability.modules:
        fault = _import_fault(module) if ability.tried else _absence(module)
        if fault is None:
            versions.append(f"{module.partition('.')[0]} {_version(module)}")
        elif fault == "":
            missing.append(module)
        else:
            broken.append(fault)
    if broken:
        return Check(what=ability.what, status="problem", found="; ".join(broken), advice=_advice_for(broken, ability))
    if missing:
        return Check(what=ability.what, status="missing", found=f"no {', '.join(missing)}", advice=ability.advice)
    return Check(what=ability.what, status="ok", found=", ".join(versions))


def _trt() -> Check:
    """Whether bundles run on a GPU: the library, cuda-python and the driver together, and a GPU that answers."""
    what = "run bundles: trt"
    library = installed_library()
    lacks = why_absent("trt")
    if library is None or lacks:
        return Check(what=what, status="missing", advice=lacks)
    try:
        version = load_library(library).__version__
        gpu = device_facts(load_runtime())
    except UnavailableError as error:
        return Check(what=what, status="problem", found=str(error), advice="see what is said of engines below")
    cuda = f"{gpu.cuda_runtime // 1000}.{gpu.cuda_runtime % 1000 // 10}"
    found = f"{library} {version} on {gpu.name}, compute capability {gpu.compute_capability}, CUDA {cuda}"
    return Check(what=what, status="ok", found=found)


def _absence(module: str) -> str | None:
    return None if importlib.util.find_spec(module) is not None else ""


def _import_fault(module: str) -> str | None:
    """None where the module loads, an empty text where it is not installed, else why it does not load."""
    try:
        _imported(module)
    except ModuleNotFoundError as error:
        own = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
        return "" if own else f"{module} does not load: {error}"
    except Exception as error:  # a native library may fail in any way while it loads
        return f"{module} does not load: {first_line(error)}"
    return None


def _imported(module: str) -> Any:
    """A module, imported so that it reports nothing over the network."""
    if module == "onnxruntime":
        return import_onnxruntime()
    if module == "openvino":
        return import_openvino()
    return importlib.import_module(module)


def _advice_for(faults: Sequence[str], ability: _Ability) -> str:
    if any(_DLA_LIBRARY in fault for fault in faults):
        return "the container's TensorRT is for another JetPack than the host: use the image of the host's JetPack"
    return f"install it again: {ability.advice}"


def _version(module: str) -> str:
    name = _DISTRIBUTIONS.get(module, module)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(_imported(module), "__version__", "of unknown version"))


def _driver(root: Path) -> Check:
    text = _text(root / "proc/driver/nvidia/version")
    found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text)
    if found is not None:
        return Check(what="NVIDIA driver", status="ok", found=found[1])
    advice = "only engines need it; on a workstation install NVIDIA's driver, on a Jetson it is part of JetPack"
    return Check(what="NVIDIA driver", status="missing", advice=advice)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
