"""Choose a student's configs: those of the profile, then the backends in table order.

The profile has the configs that `mmkd-bench tune` measured for a bundle on a machine. It affects speed alone: every
measured config passed the same gates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from mmkd_edge.backends.base import (
    AUTO_ORDER,
    BACKENDS,
    MAX_THREADS,
    BackendName,
    backend_for,
    choose_artifact,
    has_artifact,
    is_installed,
    lacking_members,
    why_absent,
)
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import cache_folder, make_cache_folder, read_own_file, write_file
from mmkd_edge.bundle.manifest import ModelEntry, Precision, fallback_order
from mmkd_edge.bundle.strict_json import decode_document, json_bytes
from mmkd_edge.errors import UsageError
from mmkd_edge.machine import Machine, this_machine
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.predict.student import Config

FORMAT_VERSION = 1
_MAX_PROFILE_BYTES = 1 << 20
_AGAIN = "run mmkd-bench tune again"

# How many times as fast lower precision or more threads must be: they cost digits of the answer, or cores.
_WORTH_IT = 1.1

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class MeasuredConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measured config; times are of the backend's call, `ratio` is to the student's first config, timed in turn."""

    model: str
    backend: BackendName
    precision: Precision
    threads: Annotated[int, msgspec.Meta(ge=1, le=MAX_THREADS)]
    p50_us: _Positive
    p99_us: _Positive
    ratio: _Positive
    calls: Annotated[int, msgspec.Meta(ge=1, le=10**12)]


class RejectedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A config that was not measured, and why."""

    model: str
    backend: BackendName
    precision: Precision
    reason: str


class ExecutionProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measurements of a bundle on a kind of machine; `libraries` maps distributions to versions."""

    format_version: int = FORMAT_VERSION
    bundle_sha256: str
    machine: Machine
    created_utc: str
    libraries: dict[str, str]
    trials: tuple[MeasuredConfig, ...]
    left_out: tuple[RejectedConfig, ...] = ()


class ProfileLookup(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's profile for this machine, or why there is none; its path, empty without a cache folder."""

    path: str
    reason: str
    profile: ExecutionProfile | None


def best_trial(
    trials: Iterable[MeasuredConfig],
    *,
    model: str,
    backend: BackendName | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
) -> MeasuredConfig | None:
    """Return the best measured config that fits the request, or None."""
    fitting = [
        trial
        for trial in trials
        if trial.model == model
        and backend in (None, trial.backend)
        and precision in (None, trial.precision)
        and threads in (None, trial.threads)
    ]

    def price(trial: MeasuredConfig) -> float:
        return trial.ratio * _WORTH_IT ** ((trial.precision != "fp32") + (trial.threads > 1))

    return min(fitting, key=price, default=None)


def profile_path(bundle_sha256: str, machine: Machine) -> Path:
    """Return the path of a bundle's profile for a kind of machine; UsageError without a cache folder."""
    return cache_folder("profiles") / f"{bundle_sha256[:16]}-{machine.key}.json"


def write_profile(profile: ExecutionProfile) -> Path:
    """Write a profile atomically to its place; UsageError on failure."""
    path = profile_path(profile.bundle_sha256, profile.machine)
    make_cache_folder(path.parent)
    write_file(path, json_bytes(profile), own=True)
    return path


def find_profile(bundle_sha256: str) -> ProfileLookup:
    """Look up a bundle's profile for this machine; never raises."""
    machine = this_machine()
    try:
        path = profile_path(bundle_sha256, machine)
    except UsageError as error:
        return ProfileLookup(profile=None, path="", reason=str(error))
    profile = None
    try:
        profile = decode_profile(read_own_file(path, max_bytes=_MAX_PROFILE_BYTES))
        reason = _mismatch(profile, bundle_sha256, machine)
    except FileNotFoundError:
        reason = "no profile of this bundle on this machine"
    except OSError as error:
        reason = f"the profile {path} cannot be read: {(error.strerror or str(error)).lower()}"
    except ValueError as error:
        reason = f"the profile {path} is damaged: {error}; {_AGAIN}"
    return ProfileLookup(profile=None if reason else profile, path=str(path), reason=reason)


def decode_profile(data: bytes) -> ExecutionProfile:
    """Read a profile; ValueError with the JSON path if damaged."""
    if len(data) > _MAX_PROFILE_BYTES:
        raise ValueError(f"expected at most {_MAX_PROFILE_BYTES} bytes, got more")
    return decode_document(data, ExecutionProfile, version=FORMAT_VERSION)


def library_versions(backends: Sequence[BackendName]) -> dict[str, str]:
    """Return the versions of the engines' installed distributions."""
    versions = {name: _installed_version(name) for name in (BACKENDS[backend].library()[1] for backend in backends)}
    return {name: version for name, version in versions.items() if version is not None}


def _installed_version(distribution: str) -> str | None:
    """Read the folder's name: importlib takes 0.1 s and 3 MB."""
    start, end = distribution.replace("-", "_") + "-", ".dist-info"
    for place in sys.path:
        try:
            names = os.listdir(place)  # noqa: PTH208 - a third of the time
        except OSError:
            continue
        for name in names:
            if name.startswith(start) and name.endswith(end):
                return name[len(start) : -len(end)]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _mismatch(profile: ExecutionProfile, bundle_sha256: str, machine: Machine) -> str:
    if profile.bundle_sha256 != bundle_sha256:
        return f"the profile was measured of another bundle; {_AGAIN}"
    if profile.machine != machine:
        return f"the profile was measured on another machine, {profile.machine}; {_AGAIN} here"
    for distribution, version in profile.libraries.items():
        installed = _installed_version(distribution)
        if installed != version:
            now = "is not installed any more" if installed is None else f"is {installed} now"
            return f"the profile was measured with {distribution} {version}, which {now}; {_AGAIN}"
    return ""


StudentConfig = tuple[ModelEntry, Config]


class ConfigChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor's configs, best first, each with its student, and why other backends cannot run here."""

    entry: ModelEntry  # its best student
    configs: tuple[StudentConfig, ...]
    rejected: tuple[str, ...]


def choose_configs(bundle: Bundle, options: OpenOptions) -> list[ConfigChoice]:
    """Choose each sensor's configs, those of twins last; UsageError if no artifact fits the options."""
    is_fixed = "auto" not in (options.backend, options.precision) and options.threads is not None
    lookup = None if is_fixed else find_profile(bundle.sha256)
    return [_choose(students, options, lookup) for students in fallback_order(bundle.manifest)]


def _choose(students: tuple[ModelEntry, ...], options: OpenOptions, lookup: ProfileLookup | None) -> ConfigChoice:
    """A twin answers less well: no measurement of it, only what the first student cannot, makes it answer."""
    configs, rejected, refusals = list[StudentConfig](), list[str](), list[UsageError]()
    for entry in students:
        measured, why = None, "as requested"
        if lookup is not None:
            measured, why = _measured_config(entry, options, lookup), lookup.reason
        if measured is not None:
            configs.append((entry, measured))
            if options.backend != "auto":
                continue
        elif lookup is not None and lookup.profile is not None:
            why = "the profile has no measurement of what was requested; run mmkd-bench tune again"
        try:
            default, reasons = _default_configs(entry, options, why=why)
        except UsageError as error:
            refusals.append(error)
            continue
        configs += default
        rejected += reasons
    if len(refusals) == len(students):
        raise refusals[0]
    return ConfigChoice(entry=students[0], configs=tuple(configs), rejected=tuple(dict.fromkeys(rejected)))


def _measured_config(entry: ModelEntry, options: OpenOptions, lookup: ProfileLookup) -> Config | None:
    if lookup.profile is None:
        return None
    trials = [
        trial
        for trial in lookup.profile.trials
        if trial.model == entry.name and has_artifact(entry, trial.precision, trial.backend)
    ]
    best = best_trial(
        trials,
        model=entry.name,
        backend=None if options.backend == "auto" else options.backend,
        precision=None if options.precision == "auto" else options.precision,
        threads=options.threads,
    )
    if best is None:
        return None
    when = lookup.profile.created_utc[:10]
    return Config(
        backend=best.backend,
        precision=best.precision,
        threads=best.threads,
        reason=f"best of {len(trials)} measured on this machine by mmkd-bench tune ({when}): {best.p50_us:.0f} us",
        profile=lookup.path,
    )


def _default_configs(
    entry: ModelEntry, options: OpenOptions, *, why: str
) -> tuple[Sequence[StudentConfig], Sequence[str]]:
    precision = "fp32" if options.precision == "auto" else options.precision
    threads = 1 if options.threads is None else options.threads
    if options.backend != "auto":
        choose_artifact(entry, precision, options.backend)  # for its error
        reason = why if why == "as requested" else f"backend {options.backend!r} as requested; {why}"
        reason += f"; {entry.name!r} is the twin of {entry.twin_of!r}, which it cannot run" if entry.twin_of else ""
        return [(entry, Config(backend=options.backend, precision=precision, threads=threads, reason=reason))], ()
    fitting = [backend for backend in AUTO_ORDER if has_artifact(entry, precision, backend)]
    if not fitting:  # for its error
        choose_artifact(entry, precision, backend_for(entry.artifacts[0].format))
    configs, rejected = [], []
    formats = {artifact.format for artifact in entry.artifacts}
    for backend in AUTO_ORDER:
        lacking = lacking_members(entry, backend)
        if lacking and formats.intersection(BACKENDS[backend].formats):
            rejected.append(f"backend {backend!r}: it has no {' and '.join(lacking)}")
    for backend in fitting:
        row, distribution = BACKENDS[backend], BACKENDS[backend].library()[1]
        absent = f"{distribution} is not installed"
        if row.is_own or is_installed(backend) or row.lacks is None:  # no library, so the driver does not matter
            absent = why_absent(backend)
        if absent:
            rejected.append(f"backend {backend!r}: {absent}")
            continue
        presence = f"{distribution} and a GPU's driver are installed" if row.on_gpu else f"{distribution} is installed"
        twin = f"no backend opens {entry.twin_of!r} here, whose twin this is" if entry.twin_of else ""
        reason = "; ".join(part for part in (why, presence, twin) if part)
        configs.append((entry, Config(backend=backend, precision=precision, threads=threads, reason=reason)))
    return configs, rejected
