"""mmkd-edge: single-modality inference for factory applications.

    from mmkd_edge import EdgePredictor

    with EdgePredictor.open("student.edge") as predictor:
        print(predictor.predict(window).label)

Libraries are imported when a name is first used, so that a command can answer Ctrl-C and show its help at once.
"""

TYPE_CHECKING = False  # importing typing takes time

if TYPE_CHECKING:
    from mmkd_edge.backends.base import choose_artifact
    from mmkd_edge.bundle.bundle import Bundle, Golden, example_bundle, golden_bytes, write_bundle
    from mmkd_edge.bundle.manifest import Manifest, ModelEntry
    from mmkd_edge.bundle.manifest_json import decode_manifest, encode_manifest
    from mmkd_edge.bundle.reference import Reference, read_reference, write_reference
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
        SignatureError,
        UnavailableError,
        UsageError,
    )
    from mmkd_edge.health.monitor import Health, LatestAnswers, Watched
    from mmkd_edge.health.prometheus import HealthCollector
    from mmkd_edge.health.timing import SecondsHistogram, Timing
    from mmkd_edge.install.slots import read_slots
    from mmkd_edge.opening.options import OpenOptions
    from mmkd_edge.opening.selftest import SelfTest
    from mmkd_edge.opening.students import PredictorInfo
    from mmkd_edge.predict.postprocess import Prediction, SensorError, SensorFallback, interpret, with_fault
    from mmkd_edge.predict.preprocess import check_window, prepare, prepare_batch
    from mmkd_edge.predict.sensors import SensorChecks, Status, WindowFault
    from mmkd_edge.predictor import EdgePredictor
    from mmkd_edge.spec import ModalitySpec, TaskSpec, TensorSpec
    from mmkd_edge.stream.stream import Stream, StreamFacts

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
    "HealthCollector",
    "InputError",
    "LatestAnswers",
    "Manifest",
    "ManifestError",
    "MmkdError",
    "ModalitySpec",
    "ModelEntry",
    "OpenOptions",
    "PerformanceError",
    "Prediction",
    "PredictorInfo",
    "Reference",
    "SecondsHistogram",
    "SelfTest",
    "SensorChecks",
    "SensorError",
    "SensorFallback",
    "SignatureError",
    "Status",
    "Stream",
    "StreamFacts",
    "TaskSpec",
    "TensorSpec",
    "Timing",
    "UnavailableError",
    "UsageError",
    "Watched",
    "WindowFault",
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
    "read_slots",
    "with_fault",
    "write_bundle",
    "write_reference",
]

# Module of each name in `__all__`, as in the imports above.
_HOMES = {
    "mmkd_edge.backends.base": "choose_artifact",
    "mmkd_edge.bundle.bundle": "Bundle Golden example_bundle golden_bytes write_bundle",
    "mmkd_edge.bundle.manifest": "Manifest ModelEntry",
    "mmkd_edge.bundle.manifest_json": "decode_manifest encode_manifest",
    "mmkd_edge.bundle.reference": "Reference read_reference write_reference",
    "mmkd_edge.errors": "ArtifactError BackendError BundleError CheckpointError DatasetError GateError "
    "InputError ManifestError MmkdError PerformanceError SignatureError UnavailableError UsageError",
    "mmkd_edge.install.slots": "read_slots",
    "mmkd_edge.opening.options": "OpenOptions",
    "mmkd_edge.opening.students": "PredictorInfo",
    "mmkd_edge.predict.postprocess": "Prediction SensorError SensorFallback interpret with_fault",
    "mmkd_edge.predict.preprocess": "check_window prepare prepare_batch",
    "mmkd_edge.opening.selftest": "SelfTest",
    "mmkd_edge.predict.sensors": "SensorChecks Status WindowFault",
    "mmkd_edge.predictor": "EdgePredictor",
    "mmkd_edge.spec": "ModalitySpec TaskSpec TensorSpec",
    "mmkd_edge.stream.stream": "Stream StreamFacts",
    "mmkd_edge.health.monitor": "Health LatestAnswers Watched",
    "mmkd_edge.health.prometheus": "HealthCollector",
    "mmkd_edge.health.timing": "SecondsHistogram Timing",
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
