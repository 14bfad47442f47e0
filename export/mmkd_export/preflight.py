"""Quick checks of a plan, reported together."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mmkd_edge.bundle.files import open_file
from mmkd_edge.cli.outputs import check_file, check_name
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_edge.install.keys import check_keys
from mmkd_export.plan import BUNDLE_SUFFIX, ExportPlan, Seal, is_bundle
from mmkd_export.targets.table import ResolvedPlan, requested_targets, resolve

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
    try:
        os.close(open_file(plan.source, expected="a student checkpoint of mmkd-edge or a bundle"))
    except UsageError as error:
        yield error
    for path in (plan.calibration, plan.evaluation):
        if path is not None and not path.exists():
            yield UsageError(
                f"{path}: expected a dataset directory or an .npz file of windows, found nothing there; check the path"
            )
    if plan.drift_reference is not None and not plan.drift_reference.is_dir():
        yield UsageError(
            f"{plan.drift_reference}: --drift-reference: expected a dataset directory, found none there; check the path"
        )
    try:
        resolve(plan)
    except UsageError as error:
        yield error
    if not 0 <= plan.max_drop_points <= 100:
        yield UsageError(f"--max-drop-points {plan.max_drop_points:g}: expected percentage points from 0 to 100")
    for target in requested_targets(plan):
        yield from target.problems(plan)
    if plan.from_bundle:
        yield from _checkpoint_options(plan)
    for check in (partial(check_keys, plan.seal.keys), partial(_check_output, plan.output)):
        try:
            check()
        except (UsageError, UnavailableError) as error:
            yield error


def _checkpoint_options(plan: ExportPlan) -> Iterator[UsageError]:
    targets = requested_targets(plan)
    builds = any(target.build for target in targets)
    given = {
        f"--precision {' '.join(plan.precisions)}": plan.precisions and not builds,
        "--calib": plan.calibration,
        "--eval": plan.evaluation,
        "--exclude": plan.exclude,
        "--golden": plan.golden != ExportPlan.golden,
        "--range": plan.value_range != ExportPlan.value_range,
        "--drift-reference": plan.drift_reference,
        "--max-drop-points": plan.max_drop_points != ExportPlan.max_drop_points,
        "--accept-unjudged": plan.accept_unjudged,
    }
    if (
        plan.output == plan.source
        and plan.seal == Seal()
        and not (any(given.values()) or any(row.build or row.write for row in targets))
    ):
        yield UsageError(
            f"{plan.source}: nothing to do with this bundle; name another -o, --sign, --release, --target trt or c"
        )
    for option, is_given in given.items():
        if is_given:
            yield UsageError(
                f"{plan.source}: {option}: expected a checkpoint, because a bundle keeps its artifacts and windows, "
                "got a bundle; export the checkpoint"
            )


def _check_output(output: Path) -> None:
    check_file(output)
    if output.exists() and not is_bundle(output):
        raise UsageError(f"{output}: exists and is not a bundle, so it is not overwritten; choose another -o")
    check_name(output, BUNDLE_SUFFIX)
