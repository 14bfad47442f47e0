"""What to export, for which platform, and where to. Reads no checkpoint and checks nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmkd_documents.errors import DocumentError
from mmkd_documents.export import ExportReport, decode_report
from mmkd_edge.backends.base import BackendName, lacking_members
from mmkd_edge.backends.trt.needs import EngineLibrary
from mmkd_edge.bundle.archive import LOCAL_SIGNATURE
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import read_first
from mmkd_edge.bundle.manifest import MANIFEST_FILE, REPORT_FILE, ModelEntry, fallback_order
from mmkd_edge.errors import BundleError, UsageError
from mmkd_export.verify.windows import RangeChoice

PrecisionChoice = Literal["fp32", "fp16", "int8", "auto"]
GoldenChoice = Literal["real", "synthetic"]
PlatformName = Literal["cpu-x86", "cpu-arm", "mcu", "jp6.2", "jp7", "trt-rtx"]

BUNDLE_SUFFIX = ".edge"
_SAME_GRAPHS = "not on the hardware; the same graphs through TensorRT-RTX's parser and builder"


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A row of `mmkd-export --list-targets`; `int8_ops` are faster in INT8, `run_here` was tested."""

    name: PlatformName
    title: str
    int8_ops: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    engine_library: EngineLibrary | None = None
    run_here: str

    @property
    def has_gpu(self) -> bool:
        """Whether artifacts run on a GPU, so this machine's latencies do not apply."""
        return self.engine_library is not None


PLATFORMS: tuple[Platform, ...] = (
    Platform(
        name="cpu-x86",
        title="x86-64 with onnxruntime, OpenVINO or LiteRT",
        run_here="all precisions in onnxruntime and OpenVINO, fp32 and int8 in LiteRT",
    ),
    Platform(
        name="cpu-arm",
        title="ARM64 with onnxruntime or LiteRT",
        int8_ops=("Gemm", "MatMul"),  # onnxruntime runs convolutions with Q/DQ only on inputs in float
        run_here="not on the hardware; the same files on x86",
    ),
    Platform(name="mcu", title="microcontrollers, by C sources", run_here="not on the hardware; an emulated Cortex-M7"),
    Platform(name="jp6.2", title="JetPack 6.2: Orin, TensorRT 10.3", engine_library="tensorrt", run_here=_SAME_GRAPHS),
    Platform(
        name="jp7",
        title="JetPack 7: Thor and Orin, TensorRT 10.13 to 11",
        engine_library="tensorrt",
        run_here=_SAME_GRAPHS,
    ),
    Platform(
        name="trt-rtx",
        title="GeForce RTX with TensorRT-RTX",
        engine_library="tensorrt_rtx",
        run_here="engines built ahead of time, without a GPU; not run",
    ),
)


def platform_named(name: PlatformName) -> Platform:
    """Return the row of that name."""
    return next(platform for platform in PLATFORMS if platform.name == name)


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Signing keys and release number; None keeps that of a bundle that is sealed again."""

    release: int | None = None
    keys: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """One export."""

    source: Path  # a student's checkpoint; or a bundle, to sign it again or to build engines
    output: Path
    targets: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # targets that may fail and are then left out, with the reason
    # In addition to fp32; `auto` includes those that pass their gates. Of a bundle, those to build.
    precisions: tuple[PrecisionChoice, ...] = ()
    platform: PlatformName | None = None
    calibration: Path | None = None  # dataset directory, instead of windows in the checkpoint
    evaluation: Path | None = None  # windows that judge instead of half of the others
    max_drop_points: float = 0.5  # percentage points of the metric that lower precision may lose
    accept_unjudged: bool = False  # too few windows may judge lower precision, which is then marked
    drift_reference: Path | None = None  # dataset directory, to measure how groups differ
    value_range: RangeChoice = "auto"
    golden: GoldenChoice = "real"
    seal: Seal = Seal()
    from_bundle: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_bundle", is_bundle(self.source))

    @property
    def lower_precisions(self) -> tuple[PrecisionChoice, ...]:
        """Precisions except fp32."""
        return tuple(precision for precision in self.precisions if precision != "fp32")


def export_plan(source: Path, *, output: Path | None = None, calibration: Path | None = None) -> ExportPlan:
    """Plan the fp32 bundle; `output` defaults to the checkpoint's name, or replaces the bundle."""
    return ExportPlan(source=source, output=output or source.with_suffix(BUNDLE_SUFFIX), calibration=calibration)


def is_bundle(path: Path) -> bool:
    """Whether a file starts like a bundle."""
    try:
        start = read_first(path, 64, expected="a bundle")
    except UsageError:
        return False
    return start.startswith(LOCAL_SIGNATURE) and MANIFEST_FILE.encode() in start


def only_student(bundle: Bundle, backend: BackendName = "native") -> ModelEntry:
    """Return the only sensor's student that a backend runs; raise UsageError for several sensors, or if none is."""
    students, *others = fallback_order(bundle.manifest)
    if others:
        raise UsageError(
            f"{bundle.path}: expected a bundle of one student, got {1 + len(others)}; "
            "export each checkpoint, and name them together to make one bundle"
        )
    entry = next((entry for entry in students if not lacking_members(entry, backend)), None)
    if entry is None:
        raise UsageError(
            f"{bundle.path}: expected a student without {' and '.join(lacking_members(students[0], backend))}, which "
            f"{backend} lacks, got none; export the checkpoint with --target {backend}"
        )
    return entry


def read_report(bundle: Bundle) -> ExportReport:
    """Read `report.json`; raise BundleError for another version."""
    try:
        return decode_report(bundle.read(REPORT_FILE))
    except DocumentError as error:
        raise BundleError(str(error)) from error
