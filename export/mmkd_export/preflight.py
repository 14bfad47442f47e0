"""Everything about a plan that can be checked before minutes are spent, reported together."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from mmkd_edge.bundle.files import open_file
from mmkd_edge.cli.outputs import check_file, check_name
from mmkd_edge.errors import MmkdError, UnavailableError, UsageError
from mmkd_edge.install.keys import check_keys
from mmkd_export.plan import BUNDLE_SUFFIX, ExportPlan, is_bundle
from mmkd_export.targets.table import ResolvedPlan, keeps_bundle, requested_targets, resolve

FOR_CHECKPOINT = ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime")
FOR_BUNDLE = ("onnx", "onnxruntime")


def check_plan(plan: ExportPlan) -> ResolvedPlan:
    """Check what can be checked in a moment, and resolve the plan.

    Raises:
        UnavailableError: a library is missing, and nothing else is wrong.
        UsageError: a path or an option does not fit; the message lists every problem.
    """
    problems = list(_problems(plan))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{len(problems)} problems; nothing was exported:\n{lines}")
    return resolve(plan)


def _problems(plan: ExportPlan) -> Iterator[MmkdError]:
    if not keeps_bundle(plan):
        source, needed = ("a bundle", FOR_BUNDLE) if plan.from_bundle else ("a checkpoint", FOR_CHECKPOINT)
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            yield UnavailableError(
                f"an export from {source} needs {' and '.join(missing)}, which this Python lacks; "
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
    try:
        check_keys(plan.seal.keys)
    except (UsageError, UnavailableError) as error:
        yield error
    yield from _ignored_options(plan)
    try:
        _check_output(plan.output)
    except UsageError as error:
        yield error


def _checkpoint_options(plan: ExportPlan) -> Iterator[UsageError]:
    if plan.batch is not None:
        yield UsageError(
            f"{plan.source}: --dim: expected a checkpoint, because the graph of a bundle keeps its axes, got a bundle; "
            "export the checkpoint with --dim"
        )
    if plan.golden != "real":
        yield UsageError(
            f"{plan.source}: --golden {plan.golden}: expected a checkpoint, because a bundle keeps its golden windows, "
            "got a bundle; export the checkpoint"
        )


def _ignored_options(plan: ExportPlan) -> Iterator[UsageError]:
    """Yield options that would change nothing: whoever gave one expected an effect."""
    if not {"int8", "auto"} & set(plan.precisions):
        for option, value in (("--calib-method", plan.method), ("--exclude", plan.exclude)):
            if value is not None:
                yield UsageError(f"{option} {value!r}: nothing is quantised; add --precision int8, or leave it out")
    gates = bool(plan.lower_precisions) or (plan.from_bundle and not keeps_bundle(plan))
    ignored = (
        (f"--max-drop-points {plan.max_drop_points:g}", plan.max_drop_points != ExportPlan.max_drop_points),
        ("--accept-unjudged", plan.accept_unjudged),
    )
    for option, is_given in ignored:
        if is_given and not gates:
            yield UsageError(f"{option}: no artifact of lower precision is judged; add --precision, or leave it out")


def _check_output(output: Path) -> None:
    check_file(output)
    if output.exists() and not is_bundle(output):
        raise UsageError(f"{output}: exists and is not a bundle, so it is not overwritten; choose another -o")
    check_name(output, BUNDLE_SUFFIX)
