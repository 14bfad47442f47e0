"""mmkd-edge: single-modality inference for factory applications.

    from mmkd_edge import EdgePredictor

    with EdgePredictor.open("student.edge") as predictor:
        print(predictor.predict(window).label)

Libraries are imported when a name is first used, so that a command can answer Ctrl-C and show its help at once.
"""

TYPE_CHECKING = False  # importing typing takes time

if TYPE_CHECKING:
    from mmkd_edge.bundle.bundle import Bundle, example_bundle
    from mmkd_edge.bundle.reference import Reference, read_reference
    from mmkd_edge.errors import (
        BackendError,
        BundleError,
        GateError,
        InputError,
        MmkdError,
        UnavailableError,
        UsageError,
    )
    from mmkd_edge.health.monitor import Health, Watched
    from mmkd_edge.health.prometheus import HealthCollector
    from mmkd_edge.opening.options import OpenOptions
    from mmkd_edge.opening.selftest import SelfTest
    from mmkd_edge.opening.students import PredictorInfo
    from mmkd_edge.predict.postprocess import Prediction, SensorError, SensorFallback, interpret
    from mmkd_edge.predict.preprocess import check_window, prepare
    from mmkd_edge.predict.sensors import SensorChecks
    from mmkd_edge.predictor import EdgePredictor
    from mmkd_edge.spec import ModalitySpec, TaskSpec
    from mmkd_edge.stream.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "EdgePredictor",
    "GateError",
    "Health",
    "HealthCollector",
    "InputError",
    "MmkdError",
    "ModalitySpec",
    "OpenOptions",
    "Prediction",
    "PredictorInfo",
    "Reference",
    "SelfTest",
    "SensorChecks",
    "SensorError",
    "SensorFallback",
    "Stream",
    "TaskSpec",
    "UnavailableError",
    "UsageError",
    "Watched",
    "check_window",
    "example_bundle",
    "interpret",
    "prepare",
    "read_reference",
]

# Module of each name in `__all__`, as in the imports above.
_HOMES = {
    "mmkd_edge.bundle.bundle": "Bundle example_bundle",
    "mmkd_edge.bundle.reference": "Reference read_reference",
    "mmkd_edge.errors": "BackendError BundleError GateError InputError MmkdError UnavailableError UsageError",
    "mmkd_edge.health.monitor": "Health Watched",
    "mmkd_edge.health.prometheus": "HealthCollector",
    "mmkd_edge.opening.options": "OpenOptions",
    "mmkd_edge.opening.selftest": "SelfTest",
    "mmkd_edge.opening.students": "PredictorInfo",
    "mmkd_edge.predict.postprocess": "Prediction SensorError SensorFallback interpret",
    "mmkd_edge.predict.preprocess": "check_window prepare",
    "mmkd_edge.predict.sensors": "SensorChecks",
    "mmkd_edge.predictor": "EdgePredictor",
    "mmkd_edge.spec": "ModalitySpec TaskSpec",
    "mmkd_edge.stream.stream": "Stream",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names.split():
            value: object = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
