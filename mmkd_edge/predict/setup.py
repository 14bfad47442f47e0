"""How a student is run on this machine: what was asked for, what the profile measured, or what is installed.

Decides backend, precision and threads, and says why. Opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from mmkd_edge.backends.base import (
    BACKENDS,
    DEFAULT_OPTIONS,
    BackendName,
    RunPrecision,
    SessionOptions,
    backend_for,
    choose_artifact,
    is_installed,
    why_absent,
)
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.bundle.reference import Reference
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.profile import ExecutionProfile, FoundProfile, MeasuredWay, best_trial

Trust = Literal["trial", "installed"]
TRUSTS: tuple[Trust, ...] = ("trial", "installed")


class OpeningRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is opened: what `EdgePredictor.open` was told.

    Attributes:
        backend: `auto` leaves it to the profile, or else to this module; so does `auto` of the precision.
        precision: of the arithmetic.
        threads: of one prediction; None leaves them open too.
        contest: lets a backend that was left open be settled by a contest where no profile does.
        references: for modalities that are normalised per group.
        error_level: of label sets; None for none.
        unknown_level: from this p-value down an answer is `unknown`; None for never.
        selftest: whether a few golden windows are asked first.
        trust: what may be opened in this process: what has passed a trial here, or what was installed.
        keys: the folder of those keys that must have signed it; None for that of the environment, if any.
    """

    backend: BackendName | Literal["auto"] = "auto"
    precision: RunPrecision | Literal["auto"] = "auto"
    threads: int | None = None
    contest: bool = True
    references: tuple[Reference | str | os.PathLike[str], ...] = ()
    error_level: float | None = None
    unknown_level: float | None = None
    selftest: bool = True
    trust: Trust = "trial"
    keys: str | os.PathLike[str] | None = None

    @property
    def leaves_a_choice(self) -> bool:
        """Whether anything was left open."""
        return "auto" in (self.backend, self.precision) or self.threads is None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a student.

    Attributes:
        threads: of one prediction.
        options: of the engine.
        reason: why this one, for people.
        profile: the file that says so; empty where none does.
    """

    backend: BackendName
    precision: RunPrecision
    threads: int
    options: SessionOptions = DEFAULT_OPTIONS
    reason: str
    profile: str = ""


def setups(entry: ModelEntry, asked: OpeningRequest, found: FoundProfile | None) -> tuple[Setup, ...]:
    """The ways to run a student, best first: whoever opens it takes the next where one fails. At least one.

    More than one only where the backend was left open: a backend that is asked for is never replaced.

    Args:
        entry: the student.
        asked: what the user asked for.
        found: the profile; None where nothing was left open.

    Raises:
        UsageError: the student has no artifact for what was asked; the message says for each why not.
    """
    if found is None or not asked.leaves_a_choice:
        return _defaults(entry, asked, why="as asked")
    why, measured = found.reason, None
    if found.profile is not None:
        measured = _measured(entry, asked, found)
        again = " again" if found.profile.origin == "tune" else ""
        why = "" if measured else f"the profile has no measurement of what was asked for; run mmkd-bench tune{again}"
    if measured is not None and asked.backend != "auto":
        return (measured,)
    return (*([measured] if measured else []), *_defaults(entry, asked, why=why))


def _measured(entry: ModelEntry, asked: OpeningRequest, found: FoundProfile) -> Setup | None:
    assert found.profile is not None
    trials = [trial for trial in found.profile.trials if _fits(entry, trial.precision, trial.backend)]
    precision, threads = None if asked.precision == "auto" else asked.precision, asked.threads
    if found.profile.origin == "contest":  # compares backends alone
        precision, threads = _default_precision(asked), _default_threads(asked)
        trials = [trial for trial in trials if (trial.precision, trial.threads) == (precision, threads)]
    backend = None if asked.backend == "auto" else asked.backend
    best = best_trial(trials, model=entry.name, backend=backend, precision=precision, threads=threads)
    if best is None:
        return None
    return Setup(
        backend=best.backend,
        precision=best.precision,
        threads=best.threads,
        options=best.options,
        reason="; ".join(part for part in (_told(best, trials, found.profile), found.reason) if part),
        profile=str(found.path),
    )


def _told(best: MeasuredWay, trials: Sequence[MeasuredWay], profile: ExecutionProfile) -> str:
    count, when = sum(trial.model == best.model for trial in trials), profile.created_utc[:10]
    if profile.origin == "contest":
        return f"fastest of {count} in the contest of an earlier opening ({when}): {best.p50_us:.0f} us"
    return f"best of {count} measured on this machine by mmkd-bench tune ({when}): {best.p50_us:.0f} us"


def unsettled(
    entry: ModelEntry, taken: Setup, ways: Sequence[Setup], asked: OpeningRequest, found: FoundProfile | None
) -> tuple[Setup, ...]:
    """Which of the other ways a contest should compare with the one that is taken: none where tuning has judged them.

    Args:
        entry: the student.
        taken: the way that was opened.
        ways: those that come after it.
        asked: what the user asked for.
        found: the profile; None where nothing was left open.
    """
    profile = found.profile if found is not None else None
    if asked.backend != "auto" or not asked.contest or (profile is not None and profile.origin == "tune"):
        return ()
    settled = {taken.backend}
    if profile is not None:
        settled |= {
            trial.backend
            for trial in profile.trials
            if (trial.model, trial.precision, trial.threads) == (entry.name, taken.precision, taken.threads)
        }
        settled |= {
            one.backend for one in profile.left_out if (one.model, one.precision) == (entry.name, taken.precision)
        }
    return tuple(way for way in ways if way.backend not in settled)


def _default_precision(asked: OpeningRequest) -> RunPrecision:
    return "fp32" if asked.precision == "auto" else asked.precision


def _default_threads(asked: OpeningRequest) -> int:
    return 1 if asked.threads is None else asked.threads


def _defaults(entry: ModelEntry, asked: OpeningRequest, *, why: str) -> tuple[Setup, ...]:
    precision, threads = _default_precision(asked), _default_threads(asked)
    if asked.backend != "auto":
        choose_artifact(entry, precision, asked.backend)  # for its error
        reason = why if why == "as asked" else f"backend {asked.backend!r} as asked; {why}"
        return (Setup(backend=asked.backend, precision=precision, threads=threads, reason=reason),)
    ranked = sorted(BACKENDS, key=lambda backend: BACKENDS[backend].rank)
    candidates = [backend for backend in ranked if _fits(entry, precision, backend)]
    usual = backend_for(entry.artifacts[0].format)
    if not candidates:  # for its error
        able = [backend for backend in ranked if precision in BACKENDS[backend].precisions]
        choose_artifact(entry, precision, usual if usual in able else able[0])
    # Where a library is not installed, nothing else that its backend needs is looked for.
    present = [backend for backend in candidates if is_installed(backend) and not why_absent(backend)]
    left_out = [
        f"{backend!r} is left out: {why_absent(backend)}"
        for backend in candidates
        if backend not in present and BACKENDS[backend].seems_meant()
    ]
    if not present:  # opening it says what to install
        present = [usual] if usual in candidates else candidates[:1]
    return tuple(
        Setup(
            backend=backend,
            precision=precision,
            threads=threads,
            reason="; ".join(part for part in (why, _presence(backend), *left_out) if part),
        )
        for backend in present
    )


def _fits(entry: ModelEntry, precision: RunPrecision, backend: BackendName) -> bool:
    try:
        choose_artifact(entry, precision, backend)
    except UsageError:
        return False
    return True


def _presence(backend: BackendName) -> str:
    row = BACKENDS[backend]
    distribution = row.library()[1]
    return f"{distribution} and a GPU's driver are here" if row.on_gpu else f"{distribution} is installed"
