"""Quick checks of a plan, reported together."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mmkd_edge.bundle.files import open_file
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_edge.install.keys import check_keys
from mmkd_edge.outputs import check_file, check_name
from mmkd_export.plan import BUNDLE_SUFFIX, ExportPlan, Seal, is_bundle
from mmkd_export.targets.table import Beside, ResolvedPlan, requested_targets, resolve

FOR_CHECKPOINT = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")


def check_plan(plan: ExportPlan) -> ResolvedPlan:
    """Resolve a plan; raise UsageError with every problem, or UnavailableError for a missing library."""
    problems = list(_problems(plan))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} problems; nothing was exported:\n{lines}")
    return resolve(plan)


def _problems(plan: ExportPlan) -> Iterator[MmkdError]:
    missing = [name for name in FOR_CHECKPOINT if importlib.util.find_spec(name) is None]
    if missing and not plan.from_bundle:
        yield UnavailableError(
            f"an export from a checkpoint needs {' and '.join(missing)}, which this Python lacks; "
            "run: pip install 'mmkd-edge[export]'"
        )
    if (plan.source / "dataset.json").is_file():
        cure = "make a student with mmkd-distill, and name it"
        yield UsageError(f"{plan.source}: expected a student checkpoint or a bundle, got a dataset; {cure}")
    else:
        try:
            os.close(open_file(plan.source, expected="a student checkpoint of mmkd-edge or a bundle"))
        except UsageError as error:
            yield error
    for path in (plan.calibration, plan.evaluation, plan.drift_reference):
        if path is not None and not path.is_dir():
            yield UsageError(f"{path}: expected a dataset directory, found none there; check the path")
    try:
        resolve(plan)
    except UsageError as error:
        yield error
    if not 0 <= plan.max_drop_points <= 100:
        yield UsageError(f"--max-drop-points {plan.max_drop_points:g}: expected percentage points from 0 to 100")
    for target in requested_targets(plan):
        yield from target.problems(plan)
    yield from _options_without_effect(plan)
    for check in (partial(check_keys, plan.seal.keys), partial(_check_output, plan.output)):
        try:
            check()
        except (UsageError, UnavailableError) as error:
            yield error


def _options_without_effect(plan: ExportPlan) -> Iterator[UsageError]:
    targets = requested_targets(plan)
    beside = [target.adds for target in targets if isinstance(target.adds, Beside)]
    builds = any(row.platform_here is not None for row in beside)
    lower = bool(plan.lower_precisions)
    checkpoint, lowering = "a checkpoint", "--precision fp16, int8 or auto"
    rows = (  # the option, whether it was given, whether it has an effect, and what it needs
        (f"--precision {' '.join(plan.precisions)}", bool(plan.precisions), not plan.from_bundle or builds, checkpoint),
        (f"--platform {plan.platform}", plan.platform is not None, not plan.from_bundle or builds, checkpoint),
        ("--calib", plan.calibration is not None, not plan.from_bundle, checkpoint),
        ("--eval", plan.evaluation is not None, not plan.from_bundle, checkpoint),
        ("--golden", plan.golden != ExportPlan.golden, not plan.from_bundle, checkpoint),
        ("--range", plan.value_range != ExportPlan.value_range, not plan.from_bundle, checkpoint),
        ("--drift-reference", plan.drift_reference is not None, not plan.from_bundle, checkpoint),
        ("--max-drop-points", plan.max_drop_points != ExportPlan.max_drop_points, lower, lowering),
        ("--accept-unjudged", plan.accept_unjudged, lower, lowering),
    )
    for option, is_given, has_effect, needs in rows:
        if is_given and not has_effect:
            yield UsageError(f"{option} has no effect without {needs}; leave it out")
    is_idle = plan.from_bundle and plan.output == plan.source and plan.seal == Seal()
    if is_idle and not beside and not any(is_given for _, is_given, *_ in rows):
        yield UsageError(
            f"{plan.source}: nothing to do with this bundle; name another -o, --sign, --release, --target trt or c"
        )


def _check_output(output: Path) -> None:
    check_file(output)
    if output.exists() and not is_bundle(output):
        raise UsageError(f"{output}: exists and is not a bundle, so it is not overwritten; choose another -o")
    check_name(output, BUNDLE_SUFFIX)
