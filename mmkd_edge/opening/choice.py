"""Choose a student's configs: the profile's, then the backends in table order."""

from __future__ import annotations

import msgspec

from mmkd_edge.backends.base import (
    AUTO_ORDER,
    BACKENDS,
    backend_for,
    choose_artifact,
    has_artifact,
    is_installed,
    lacking_members,
    why_absent,
)
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry, fallback_order
from mmkd_edge.errors import UsageError
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.profile import ProfileLookup, best_trial, find_profile
from mmkd_edge.predict.student import Config


class ConfigChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor's configs, best first, each with its student, and why other backends cannot run here."""

    entry: ModelEntry  # its best student
    configs: tuple[tuple[ModelEntry, Config], ...]
    rejected: tuple[str, ...] = ()


def choose_configs(bundle: Bundle, options: OpenOptions) -> list[ConfigChoice]:
    """Choose each sensor's configs, those of twins last; UsageError if no artifact fits the options."""
    is_fixed = "auto" not in (options.backend, options.precision) and options.threads is not None
    lookup = None if is_fixed else find_profile(bundle.sha256)
    return [_choose(students, options, lookup) for students in fallback_order(bundle.manifest)]


def _choose(students: tuple[ModelEntry, ...], options: OpenOptions, lookup: ProfileLookup | None) -> ConfigChoice:
    """A twin answers less well: no measurement of it, only what the first student cannot, makes it answer."""
    first, choices, refusals = students[0], list[ConfigChoice](), list[UsageError]()
    for entry in students:
        try:
            choices.append(_choose_for(entry, options, lookup))
        except UsageError as error:
            refusals.append(error)
    if not choices:
        raise refusals[0]
    return ConfigChoice(
        entry=first,
        configs=tuple(pair for choice in choices for pair in choice.configs),
        rejected=tuple(dict.fromkeys(reason for choice in choices for reason in choice.rejected)),
    )


def _choose_for(entry: ModelEntry, options: OpenOptions, lookup: ProfileLookup | None) -> ConfigChoice:
    if lookup is None:
        return _default_configs(entry, options, why="as requested")
    measured, why = _measured_config(entry, options, lookup), lookup.reason
    if measured is not None and options.backend != "auto":
        return ConfigChoice(entry=entry, configs=((entry, measured),))
    if lookup.profile is not None and measured is None:
        why = "the profile has no measurement of what was requested; run mmkd-bench tune again"
    choice = _default_configs(entry, options, why=why)
    if measured is None:
        return choice
    return msgspec.structs.replace(choice, configs=((entry, measured), *choice.configs))


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
        profile=str(lookup.path),
    )


def _default_configs(entry: ModelEntry, options: OpenOptions, *, why: str) -> ConfigChoice:
    precision = "fp32" if options.precision == "auto" else options.precision
    threads = 1 if options.threads is None else options.threads
    if options.backend != "auto":
        choose_artifact(entry, precision, options.backend)  # for its error
        reason = why if why == "as requested" else f"backend {options.backend!r} as requested; {why}"
        reason += f"; {entry.name!r} is the twin of {entry.twin_of!r}, which it cannot run" if entry.twin_of else ""
        config = Config(backend=options.backend, precision=precision, threads=threads, reason=reason)
        return ConfigChoice(entry=entry, configs=((entry, config),))
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
    return ConfigChoice(entry=entry, configs=tuple(configs), rejected=tuple(rejected))
