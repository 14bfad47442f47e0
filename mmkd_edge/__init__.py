"""mmkd-edge: single-modality inference for factory applications.

    from mmkd_edge import EdgePredictor

    with EdgePredictor.open("student.edge") as predictor:
        print(predictor.predict(window).label)

Needs numpy and msgspec alone; the library behind a backend is imported when a bundle is opened.
"""

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
