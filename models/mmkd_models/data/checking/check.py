"""The full check of a dataset: every rule of docs/datasets.md, the values of the windows included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmkd_edge.errors import DatasetError
from mmkd_models.data.checking.findings import rule_findings, value_findings
from mmkd_models.data.checking.odd_recordings import unit_findings
from mmkd_models.data.checking.related import find_overlaps, leak_findings
from mmkd_models.data.checking.scan import Scan, scan_windows
from mmkd_models.data.dataset import load_directory, locate_dataset, windows_of
from mmkd_models.data.files import Arrays, file_of
from mmkd_models.data.spec import problem_message
from mmkd_models.data.windows import Windows
from mmkd_report.schema.data import Finding


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """A valid dataset and its findings, problems first."""

    windows: Windows
    findings: tuple[Finding, ...]


def check_dataset(path: str | Path) -> CheckReport:
    """Check a dataset directory and read every value once. Raise DatasetError with every problem."""
    path = locate_dataset(path)
    spec, arrays = load_directory(path)
    windows = windows_of(spec, arrays)
    findings = sort_findings([*_unused_files(path, arrays), *find_everything(windows, scan_windows(windows))])
    refuse_errors(path, findings)
    return CheckReport(windows=windows, findings=tuple(findings))


def find_everything(windows: Windows, scan: Scan) -> list[Finding]:
    """Return all findings of `Dataset.everything()` and its scan."""
    leaks = leak_findings(windows, find_overlaps(windows))
    return [*rule_findings(scan), *leaks, *unit_findings(scan), *value_findings(scan)]


def sort_findings(findings: list[Finding]) -> list[Finding]:
    """Return errors first, then problems, then notes."""
    return sorted(findings, key=lambda finding: ("error", "problem", "note").index(finding.level))


def refuse_errors(path: Path, findings: list[Finding]) -> None:
    """Raise DatasetError with the errors among the findings, if there are any."""
    errors = [finding.text for finding in findings if finding.level == "error"]
    if errors:
        raise DatasetError(problem_message(path, errors))


def _unused_files(path: Path, arrays: Arrays) -> Iterator[Finding]:
    used = set(map(file_of, arrays))
    for file in sorted([*path.rglob("*.npy"), *path.rglob("*.npz")]):
        name = file.relative_to(path).as_posix()
        if name not in used:
            advice = "describe it in dataset.json or remove it"
            yield Finding(kind="unused file", level="note", sentence=f"{name}: this file is not used", advice=advice)
