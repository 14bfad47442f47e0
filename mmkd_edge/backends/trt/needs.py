"""What this machine lacks for TensorRT (library, cuda-python, driver), without heavy imports."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import Any, Literal

from mmkd_edge.errors import UnavailableError

EngineLibrary = Literal["tensorrt", "tensorrt_rtx"]
LIBRARIES: tuple[EngineLibrary, ...] = ("tensorrt", "tensorrt_rtx")
_DRIVER = "libcuda.so.1"
_INSTALL_LIBRARY = (
    "TensorRT (on a Jetson: sudo apt-get install python3-libnvinfer, in an environment made with "
    "--system-site-packages; for GeForce RTX: pip install 'mmkd-edge[trt-rtx]')"
)


def installed_library() -> EngineLibrary | None:
    """Return the installed TensorRT, TensorRT itself first, or None."""
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is not None:
            return library
    return None


def installed_distribution() -> tuple[str, str]:
    """Return module and distribution of the installed TensorRT, or of TensorRT itself."""
    library = installed_library() or "tensorrt"
    return library, "tensorrt" if library == "tensorrt" else "tensorrt-rtx-cu13"


def why_no_engines() -> str:
    """Return everything that is missing, with install commands; empty if nothing is."""
    missing = []
    if installed_library() is None:
        missing.append(_INSTALL_LIBRARY)
    if importlib.util.find_spec("cuda") is None:
        missing.append("cuda-python (pip install 'mmkd-edge[trt]')")
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        missing.append(f"an NVIDIA GPU with its driver ({_DRIVER} does not load)")
    return f"this machine lacks {', '.join(missing)}" if missing else ""


def load_library(library: EngineLibrary) -> Any:
    """Import a TensorRT; UnavailableError with the reason on failure."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise UnavailableError(f"{library} does not load: {error}") from error
        source = (
            "it comes with JetPack" if library == "tensorrt" else "install it with pip install 'mmkd-edge[trt-rtx]'"
        )
        raise UnavailableError(f"{library} is not installed on this machine ({source})") from error
    except ImportError as error:
        raise UnavailableError(f"{library} does not load: {error}; mmkd-doctor has advice") from error
