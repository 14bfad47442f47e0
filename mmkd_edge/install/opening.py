"""A bundle becomes its opened students, in four steps: verify, choose a config, load, self-test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.bundle.reference import Reference, check_reference, read_reference
from mmkd_edge.errors import (
    ArtifactError,
    BackendError,
    BundleError,
    MmkdError,
    UnavailableError,
    UsageError,
    first_line,
)
from mmkd_edge.install.keys import check_signed
from mmkd_edge.install.sandbox import SandboxPolicy
from mmkd_edge.install.slots import Started, check_installed, condemns, confirm, fail, forget, start
from mmkd_edge.predict.config import ConfigChoice, OpeningRequest, choose_configs
from mmkd_edge.predict.engine import Engine, Students, open_engine
from mmkd_edge.predict.profile import find_profile
from mmkd_edge.predict.selftest import run_selftest

Check = Callable[[Students], None]
_FEW_WINDOWS = 8
"""Golden windows of the first self-test of a config that had no sandbox check."""


def open_students(path: str | os.PathLike[str], request: OpeningRequest, *, check: Check | None = None) -> Students:
    """Open the students of a bundle, or of what is installed in a state folder; see `EdgePredictor.open`.

    Args:
        check: raises if they must not answer here; the first start of an installed bundle has then failed.
    """
    path = Path(path)
    if path.is_dir():
        return _open_installed(path, msgspec.structs.replace(request, trust="installed"), check)
    if request.trust == "installed":
        raise UsageError(f"{path}: trust='installed': expected the state folder of mmkd-edge install, got a file")
    return _run_check(_open_bundle(path, request), check)


def _open_bundle(path: Path, request: OpeningRequest, started: Started | None = None) -> Students:
    """Verify a bundle, choose the configs of each student, load the first that works, and run the first self-test."""
    bundle = _verify(path, request, started)
    engines: list[Engine] = []
    returned = started.returned if started else ""
    try:
        models = bundle.manifest.models
        references = _match_references(request, models)
        lookup = find_profile(bundle.sha256) if request.leaves_a_choice else None
        choices = [choose_configs(entry, request, lookup) for entry in models]
        sandbox = SandboxPolicy(bundle, request, returned=returned)
        sandbox.check_all(
            [(entry, choice.configs[0]) for entry, choice in zip(models, choices, strict=True) if choice.configs]
        )
        for entry, choice in zip(models, choices, strict=True):
            engines.append(_load(bundle, entry, choice, request, references, sandbox))
        return Students(engines=_selftest(bundle, engines, sandbox), bundle=bundle, returned=returned)
    except BaseException:
        for engine in engines:
            engine.close()
        bundle.close()
        raise


def _verify(path: Path, request: OpeningRequest, started: Started | None) -> Bundle:
    try:
        bundle = Bundle.open(path)
    except UsageError as error:
        if started is None:
            raise
        raise BundleError(str(error)) from error
    try:
        if started is not None:
            check_installed(bundle, started.sha256)
        check_signed(bundle, request.keys)
    except BaseException:
        bundle.close()
        raise
    return bundle


def _load(
    bundle: Bundle,
    entry: ModelEntry,
    choice: ConfigChoice,
    request: OpeningRequest,
    references: Mapping[str, Reference],
    sandbox: SandboxPolicy,
) -> Engine:
    """Open a student with the first config that works here; the error says why each was rejected."""
    failures: list[MmkdError] = []
    for config in choice.configs:
        try:
            sandbox.check(entry, config)
            engine = open_engine(
                bundle,
                entry,
                config,
                reference=references.get(entry.modality.name),
                error_level=request.error_level,
                unknown_level=request.unknown_level,
            )
            return msgspec.structs.replace(engine, rejected=(*map(str, failures), *choice.rejected))
        except (UnavailableError, BackendError) as error:
            if request.backend != "auto":
                raise
            failures.append(error)
    kind = BackendError if any(isinstance(error, BackendError) for error in failures) else UnavailableError
    reasons = "; ".join((*map(str, failures), *choice.rejected))
    raise kind(f"{bundle.path}: no backend can run model {entry.name!r} here: {reasons}")


def _selftest(bundle: Bundle, engines: Sequence[Engine], sandbox: SandboxPolicy) -> tuple[Engine, ...]:
    """Compare a few golden windows of each student that has not answered them on this machine before."""
    untested = [engine for engine in engines if sandbox.needs_selftest(engine)]
    for engine in untested:
        run_selftest(engine, bundle, most=_FEW_WINDOWS)
    sandbox.remember(untested)
    return tuple(
        msgspec.structs.replace(
            engine, selftest=sandbox.describe_selftest(engine), sandbox_check=sandbox.describe_check(engine)
        )
        for engine in engines
    )


def _match_references(request: OpeningRequest, models: Sequence[ModelEntry]) -> dict[str, Reference]:
    references: dict[str, Reference] = {}
    modalities = [entry.modality for entry in models]
    for source in request.references:
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


def _run_check(students: Students, check: Check | None) -> Students:
    try:
        if check is not None:
            check(students)
    except BaseException:
        students.close()
        raise
    return students


def _open_installed(state: Path, request: OpeningRequest, check: Check | None) -> Students:
    """Open what is installed; the bundle before it if it is damaged, or fails at its first start."""
    with start(state) as started:
        try:
            students = _open_current_or_earlier(state, request, started)
        except BaseException:
            if started.on_probation:
                forget(state, started)
            raise
        try:
            _run_check(students, check)
        except BaseException as error:
            if started.on_probation and isinstance(error, MmkdError):  # the caller's bundle goes on answering
                fail(state, started, first_line(error))
            elif started.on_probation:
                forget(state, started)
            raise
        if students.returned:
            import logging  # takes milliseconds, and few starts need it

            logging.getLogger(__name__).warning("%s: %s", state, students.returned)
        if started.on_probation:
            confirm(state, started)
        return students


def _open_current_or_earlier(state: Path, request: OpeningRequest, started: Started) -> Students:
    try:
        return _open_bundle(started.path, request, started)
    except MmkdError as error:
        earlier = fail(state, started, first_line(error)) if condemns(error, started) else None
        if earlier is None:
            raise
        try:
            return _open_bundle(earlier.path, request, earlier)
        except ArtifactError as another:
            raise BundleError(f"{error}; the bundle before cannot answer either: {another}") from another
