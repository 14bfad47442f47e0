"""mmkd-edge: single-modality inference for factory applications.

    from mmkd_edge import EdgePredictor

    with EdgePredictor.open("student.edge") as predictor:
        print(predictor.predict(window).label)

Needs numpy and msgspec alone, and imports them when a name is first used, so that a command can answer Ctrl-C and show
its help at once; the library behind a backend is imported when a bundle is opened.
"""

TYPE_CHECKING = False  # as type checkers know it, without the time that importing typing takes

if TYPE_CHECKING:
    from mmkd_edge.bundle import Bundle, Golden, choose_artifact, example_bundle, golden_bytes, write_bundle
    from mmkd_edge.engine import SelfTest
    from mmkd_edge.errors import (
        ArtifactError,
        BackendError,
        BundleError,
        CheckpointError,
        DatasetError,
        GateError,
        InputError,
        ManifestError,
        MmkdError,
        PerformanceError,
        SensorError,
        UnavailableError,
        UsageError,
    )
    from mmkd_edge.health import Health
    from mmkd_edge.info import PredictorInfo
    from mmkd_edge.manifest import Manifest, decode_manifest, encode_manifest
    from mmkd_edge.postprocess import Prediction, interpret
    from mmkd_edge.predictor import EdgePredictor
    from mmkd_edge.preprocess import check_window, prepare, prepare_batch
    from mmkd_edge.reference import Reference, read_reference, write_reference
    from mmkd_edge.sensors import SensorChecks
    from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec
    from mmkd_edge.stream import Stream, StreamFacts
    from mmkd_edge.timing import Timing
    from mmkd_edge.watch import Watched

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BackendError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "DatasetError",
    "EdgePredictor",
    "GateError",
    "Golden",
    "Health",
    "InputError",
    "Manifest",
    "ManifestError",
    "MmkdError",
    "ModalitySpec",
    "PerformanceError",
    "Prediction",
    "PredictorInfo",
    "Reference",
    "SelfTest",
    "SensorChecks",
    "SensorError",
    "Stream",
    "StreamFacts",
    "TaskSpec",
    "TensorSpec",
    "Timing",
    "UnavailableError",
    "UsageError",
    "Watched",
    "check_window",
    "choose_artifact",
    "decode_manifest",
    "encode_manifest",
    "example_bundle",
    "golden_bytes",
    "interpret",
    "prepare",
    "prepare_batch",
    "read_reference",
    "write_bundle",
    "write_reference",
]

# Where each name of `__all__` lives, as the imports above tell it to type checkers.
_HOMES = {
    "mmkd_edge.bundle": ("Bundle", "Golden", "choose_artifact", "example_bundle", "golden_bytes", "write_bundle"),
    "mmkd_edge.engine": ("SelfTest",),
    "mmkd_edge.errors": (
        "ArtifactError",
        "BackendError",
        "BundleError",
        "CheckpointError",
        "DatasetError",
        "GateError",
        "InputError",
        "ManifestError",
        "MmkdError",
        "PerformanceError",
        "SensorError",
        "UnavailableError",
        "UsageError",
    ),
    "mmkd_edge.health": ("Health",),
    "mmkd_edge.info": ("PredictorInfo",),
    "mmkd_edge.manifest": ("Manifest", "decode_manifest", "encode_manifest"),
    "mmkd_edge.postprocess": ("Prediction", "interpret"),
    "mmkd_edge.predictor": ("EdgePredictor",),
    "mmkd_edge.preprocess": ("check_window", "prepare", "prepare_batch"),
    "mmkd_edge.reference": ("Reference", "read_reference", "write_reference"),
    "mmkd_edge.sensors": ("SensorChecks",),
    "mmkd_edge.spec": ("ModalitySpec", "TaskSpec", "TensorSpec"),
    "mmkd_edge.stream": ("Stream", "StreamFacts"),
    "mmkd_edge.timing": ("Timing",),
    "mmkd_edge.watch": ("Watched",),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
