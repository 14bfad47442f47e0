"""Open the students of a bundle, or of a state folder's installed bundle."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mmkd_edge.backends.base import BACKENDS, Backend, step_artifact
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import fallback_order
from mmkd_edge.bundle.reference import Reference, check_reference, read_reference
from mmkd_edge.errors import BackendError, MmkdError, UnavailableError, UsageError
from mmkd_edge.health.running import RunningStatistics
from mmkd_edge.install.keys import check_signed
from mmkd_edge.opening.choice import ConfigChoice, choose_configs
from mmkd_edge.opening.deadline import Deadline
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.sandbox import BUILD_S, SandboxChecks
from mmkd_edge.opening.selftest import run_selftest_within
from mmkd_edge.predict.student import OpenStudent, open_student

if TYPE_CHECKING:
    from mmkd_edge.install.slots import Started

_SELFTEST_S = 1.0
"""For the first self-test of a config that had no sandbox check: the native engine answers all golden windows in it."""


class Students(msgspec.Struct, frozen=True, kw_only=True):
    """The students of one bundle, best first, and the statistics of each."""

    opened: tuple[OpenStudent, ...]
    statistics: tuple[RunningStatistics, ...]
    bundle: Bundle | None = None
    returned: str = ""  # why they answer and not the bundle installed last

    @classmethod
    def begin(cls, opened: Iterable[OpenStudent], bundle: Bundle | None = None, returned: str = "") -> Students:
        """Begin to count for opened students."""
        opened = tuple(opened)
        statistics = tuple(RunningStatistics(student.entry) for student in opened)
        return cls(opened=opened, statistics=statistics, bundle=bundle, returned=returned)

    def with_backend(self, student: OpenStudent, backend: Backend) -> Students:
        """Return the same students with another backend for one."""
        fresh = msgspec.structs.replace(student, backend=backend)
        return msgspec.structs.replace(self, opened=tuple(fresh if old is student else old for old in self.opened))

    def close(self) -> None:
        """Close students and bundle."""
        for student in self.opened:
            student.close()
        if self.bundle is not None:
            self.bundle.close()


Check = Callable[[Students], None]


def open_students(
    path: str | os.PathLike[str], options: OpenOptions, *, check: Check | None = None, deadline: Deadline | None = None
) -> Students:
    """Open the students of a bundle or state folder; see `EdgePredictor.open`.

    `check` raises if they must not answer here, which fails an installed bundle's first start. After it the deadline
    commits.
    """
    path, deadline = Path(path), deadline or Deadline()
    if path.is_dir():
        return _open_installed(path, msgspec.structs.replace(options, trust="installed"), check, deadline)
    if options.trust == "installed":
        raise UsageError(f"{path}: trust='installed': expected the state folder of mmkd-edge install, got a file")
    return _run_check(_open_bundle(path, options, deadline), check, deadline)


def _open_bundle(path: Path, options: OpenOptions, deadline: Deadline, started: Started | None = None) -> Students:
    returned = started.returned if started else ""
    with ExitStack() as opened:
        bundle = started.open() if started else Bundle.open(path)
        opened.callback(bundle.close)
        check_signed(bundle, options.keys)
        references = _match_references(bundle, options)
        choices = choose_configs(bundle, options)
        checks = SandboxChecks.begin(bundle, chain(*(choice.configs for choice in choices)), options, deadline)
        checks = checks.check(*(choice.configs[0] for choice in choices if choice.configs))
        students = []
        for choice in choices:
            student, checks = _load(bundle, choice, options, references, checks)
            opened.callback(student.close)
            students.append(student)
        untested = list(filter(checks.needs_selftest, students))
        for student in untested:
            run_selftest_within(student, bundle, limit_s=_SELFTEST_S)
        checks = checks.with_selftests(untested)
        opened.pop_all()
    return Students.begin((checks.describe(student, returned=returned) for student in students), bundle, returned)


def _load(
    bundle: Bundle,
    choice: ConfigChoice,
    options: OpenOptions,
    references: Mapping[str, Reference],
    checks: SandboxChecks,
) -> tuple[OpenStudent, SandboxChecks]:
    failures = list[MmkdError]()
    for entry, config in choice.configs:
        try:
            checks = checks.check((entry, config))
            checks.require(entry, config)
            with checks.deadline.extended(BUILD_S if BACKENDS[config.backend].on_gpu else 0.0):
                student = open_student(
                    bundle,
                    entry,
                    config,
                    reference=references.get(entry.modality.name),
                    error_level=options.error_level,
                    unknown_level=options.unknown_level,
                )
            return msgspec.structs.replace(student, rejected=(*map(str, failures), *choice.rejected)), checks
        except (UnavailableError, BackendError) as error:
            if options.backend != "auto":
                raise
            failures.append(error)
    kind = BackendError if any(isinstance(error, BackendError) for error in failures) else UnavailableError
    reasons = "; ".join((*map(str, failures), *choice.rejected))
    raise kind(f"{bundle.path}: no backend can run model {choice.entry.name!r} here: {reasons}")


def _match_references(bundle: Bundle, options: OpenOptions) -> dict[str, Reference]:
    references: dict[str, Reference] = {}
    modalities = [entry.modality for entry, *_ in fallback_order(bundle.manifest)]
    for source in options.references:
        reference = source if isinstance(source, Reference) else read_reference(source)
        modality = next((spec for spec in modalities if spec.name == reference.modality), modalities[0])
        try:
            check_reference(reference, modality)
        except UsageError as error:
            if isinstance(source, Reference):
                raise
            raise UsageError(f"{os.fspath(source)}: {error}") from error
        references[modality.name] = reference
    return references


def _run_check(students: Students, check: Check | None, deadline: Deadline) -> Students:
    try:
        if check is not None:
            check(students)
        deadline.commit()
    except BaseException:
        students.close()
        raise
    return students


def _open_installed(state: Path, options: OpenOptions, check: Check | None, deadline: Deadline) -> Students:
    from mmkd_edge.install.slots import start

    with start(state, is_over=lambda: deadline.is_over) as this_start:
        students = this_start.open(lambda started: _open_bundle(started.path, options, deadline, started))
        _run_check(students, check, deadline)
        if students.returned:
            import logging  # slow, and rarely needed

            logging.getLogger(__name__).warning("%s: %s", state, students.returned)
        return students


class PredictorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What answers, and with which config. Fields about a bundle are empty without one.

    Attributes:
        profile: path of its measurements, or empty.
        step_artifact: step graph for streams; empty if they compute whole windows.
        selftest: when the first self-test passed.
        rejected: why each better config was not taken.
        least_probability: label set threshold; None without an error level.
    """

    model_id: str
    model: str
    modality: str
    labels: tuple[str, ...]
    parameters: int
    backend: str
    backend_version: str
    threads: int
    precision: str
    reason: str
    profile: str
    artifact: str
    artifact_sha256: str
    step_artifact: str
    bundle: str
    bundle_sha256: str
    selftest: str
    sandbox_check: str
    rejected: tuple[str, ...]
    least_probability: float | None
    versions: dict[str, str]


def describe_students(students: Students) -> PredictorInfo:
    """Describe the first student."""
    from importlib.metadata import version

    student, bundle = students.opened[0], students.bundle
    entry, artifact, config = student.entry, student.artifact, student.config
    step = step_artifact(entry, config.backend) if config else None
    return PredictorInfo(
        model_id=bundle.manifest.model_id if bundle else "",
        model=entry.name,
        modality=entry.modality.name,
        labels=entry.task.labels,
        parameters=entry.parameters,
        backend=student.backend.name,
        backend_version=student.backend.version,
        threads=student.backend.threads,
        precision=config.precision if config else artifact.precision if artifact else "",
        reason=config.reason if config else "",
        profile=config.profile if config else "",
        artifact=artifact.file if artifact else "",
        artifact_sha256=artifact.sha256 if artifact else "",
        step_artifact=step.file if step else "",
        bundle=str(bundle.path) if bundle else "",
        bundle_sha256=bundle.sha256 if bundle else "",
        selftest=student.selftest,
        sandbox_check=student.sandbox_check,
        rejected=student.rejected,
        least_probability=student.least_probability,
        versions={"mmkd-edge": version("mmkd-edge"), "numpy": np.__version__, "python": platform.python_version()},
    )
