"""The sandbox check: a bundle that is new here is opened in a child process first.

Passed configs are remembered by bundle hash in the user's cache folder; files that others can write are ignored.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.backends.base import BACKENDS, why_absent
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import cache_folder, is_written_by_others, make_cache_folder, read_own_file, write_file
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import BackendError, BundleError, UnavailableError, UsageError, find_error_class
from mmkd_edge.machine import this_machine
from mmkd_edge.opening.deadline import Deadline
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.profile import library_versions
from mmkd_edge.predict.student import Config, OpenStudent
from mmkd_edge.system import HAS_POSIX

if TYPE_CHECKING:
    from mmkd_edge.opening.sandbox_process import SandboxRequest, SandboxResult

# For the start of the child process, and one config; the whole bundle has the limit of the opening.
STARTING_S, CONFIG_S = 20.0, 10.0
# If engines are built.
BUILD_S, BUNDLE_BUILD_S = 600.0, 3600.0
# Memory of the child process, also if it builds an engine.
MEMORY_BYTES, BUILD_MEMORY_BYTES = 2 << 30, 8 << 30
ENGINE_BYTES = 1 << 30

FORMAT_VERSION = 2
_MAX_BYTES = 1 << 16
_MAX_PASSED = 64  # per bundle; older ones are checked again
_SLOW_BUNDLE = "all students of the bundle together take too long"
_ADVICE = "install the bundle with mmkd-edge install and open it with trust='installed'"
_UNTESTED = " without self-test"
StudentConfig = tuple[ModelEntry, Config]


class SandboxPolicy:
    """Decides which configs may be opened in this process; `returned` is why an older bundle answers."""

    def __init__(self, bundle: Bundle, options: OpenOptions, deadline: Deadline, *, returned: str = "") -> None:
        self._bundle = bundle
        self._options = options
        self._deadline = deadline
        self._returned = returned
        self._machine = this_machine().key
        self._keys: dict[tuple[str, Config], str] = {}
        self._passed_before = passed_before(bundle.sha256)
        self._passed_now: set[str] = set()
        self._refused: dict[str, tuple[str, str]] = {}
        self._unsaved = ""
        self._spent_s = {False: 0.0, True: 0.0}  # by whether engines are built

    def check(self, entry: ModelEntry, config: Config) -> None:
        """Run the sandbox check of a new config, and raise its error."""
        self.check_all([(entry, config)])
        if refusal := self._refused.get(self._key(entry, config)):
            raise find_error_class(refusal[0])(refusal[1])

    def check_all(self, pairs: Sequence[StudentConfig]) -> None:
        """Run the sandbox checks of all new configs together; `check` raises their errors."""
        if self._options.trust == "installed":
            return
        keys = {self._key(*pair): pair for pair in pairs if not BACKENDS[pair[1].backend].is_own}
        new = {key: pair for key, pair in keys.items() if not self._is_known(key) and key not in self._refused}
        if not new:
            return
        check_graphs(self._bundle)
        for builds in (False, True):  # engine builds may take longer, and fail alone
            waiting = {
                key: (entry, config)
                for key, (entry, config) in new.items()
                if BACKENDS[config.backend].on_gpu is builds and not why_absent(config.backend)
            }
            while waiting:
                self._run_check(waiting, builds=builds)

    def needs_selftest(self, student: OpenStudent) -> bool:
        """Return whether an opened student must still answer its golden windows."""
        return self._options.selftest and not self._is_known(self._key_of(student))

    def remember_selftests(self, students: Sequence[OpenStudent]) -> list[OpenStudent]:
        """Remember that students passed their self-test; return them with the time of each check."""
        self._remember([self._key_of(student) for student in students if self.needs_selftest(student)])
        installed = ""
        if self._options.trust == "installed":
            installed = "; ".join(part for part in ("passed when the bundle was installed", self._returned) if part)
        return [
            msgspec.structs.replace(
                student,
                selftest=self._describe_pass(student) if self._options.selftest else "",
                sandbox_check=installed or self._describe_check(student),
            )
            for student in students
        ]

    def _key_of(self, student: OpenStudent) -> str:
        assert student.config is not None
        return self._key(student.entry, student.config)

    def _key(self, entry: ModelEntry, config: Config) -> str:
        """Everything that a config's result depends on, in one line."""
        if key := self._keys.get((entry.name, config)):
            return key
        versions = library_versions((config.backend,)).items()
        library = " ".join(f"{name} {version}" for name, version in versions) or "of an unknown version"
        tested = "" if self._options.selftest else _UNTESTED
        named = f"{entry.name} {config.precision} {config.backend} {library}"
        key = f"{named} threads={config.threads} {self._machine}{tested}"
        self._keys[entry.name, config] = key
        return key

    def _is_known(self, key: str) -> bool:
        """A passed self-test covers opening."""
        return self._passed_earlier(key) or key in self._passed_now

    def _passed_earlier(self, key: str) -> bool:
        return key in self._passed_before or key.removesuffix(_UNTESTED) in self._passed_before

    def _describe_pass(self, student: OpenStudent) -> str:
        if self._passed_earlier(self._key_of(student)):
            return "passed at an earlier start"
        suffix = f" and at each start, since it cannot be remembered: {self._unsaved}" if self._unsaved else ""
        return f"passed now{suffix}"

    def _describe_check(self, student: OpenStudent) -> str:
        is_own = student.config is not None and BACKENDS[student.config.backend].is_own
        return "none: the native engine checks its own files" if is_own else self._describe_pass(student)

    def _run_check(self, waiting: dict[str, StudentConfig], *, builds: bool) -> None:
        """Remove configs with a result from `waiting`."""
        # Most starts run no sandbox check.
        from mmkd_edge.apart import ProcessLimits
        from mmkd_edge.opening.sandbox_process import SandboxRequest

        request = SandboxRequest(
            bundle=os.path.abspath(self._bundle.path),  # noqa: PTH100 - links stay links
            bundle_sha256=self._bundle.sha256,
            configs=tuple((entry.name, config) for entry, config in waiting.values()),
            selftest=self._options.selftest,
            limits=ProcessLimits(
                step_s=BUILD_S if builds else CONFIG_S,
                memory_bytes=BUILD_MEMORY_BYTES if builds else MEMORY_BYTES,
                file_bytes=ENGINE_BYTES if builds else 0,
            ),
        )
        passed = []
        begun_s = time.monotonic()
        deadline = self._deadline
        left_s = (BUNDLE_BUILD_S if builds else deadline.limit_s) - self._spent_s[builds]
        with deadline.extended(left_s if builds else 0.0):
            results = list(_results(request, limit_s=left_s))
        for result, key in zip(results, tuple(waiting), strict=False):
            backend = waiting.pop(key)[1].backend
            if isinstance(result, str):
                message = (
                    f"{self._bundle.path}: the sandbox check of backend {backend!r} failed: {result}; do not use this "
                    "bundle with it"
                )
                self._refused[key] = (BackendError.__name__, message)
            elif result.error:
                self._refused[key] = (result.error, result.message)
            else:
                passed.append(key)
        self._spent_s[builds] += time.monotonic() - begun_s
        self._remember(passed)

    def _remember(self, keys: Sequence[str]) -> None:
        new = tuple(key for key in keys if key not in self._passed_now)
        if new:
            self._passed_now.update(new)
            self._unsaved = remember_passed(self._bundle.sha256, new)


def _results(request: SandboxRequest, *, limit_s: float) -> Iterator[SandboxResult | str]:
    """Yield each config's result, or a text that says how the process ended."""
    from mmkd_edge.apart import ProcessLines, describe_end, end_process, start_apart
    from mmkd_edge.opening.sandbox_process import SandboxResult

    if getattr(sys, "frozen", False) or not sys.executable:
        raise UnavailableError(
            f"a sandbox check needs a Python interpreter, and this program has none of its own; {_ADVICE}"
        )
    if not HAS_POSIX:
        raise UnavailableError(
            f"a sandbox check limits a process with calls of POSIX, and this is {sys.platform}; use backend='native', "
            f"or {_ADVICE}"
        )
    end_s = time.monotonic() + limit_s
    if limit_s <= 0:
        yield from [_SLOW_BUNDLE] * len(request.configs)
        return
    try:
        process = start_apart("mmkd_edge.opening.sandbox_process:main", msgspec.json.encode(request))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnavailableError(f"a sandbox check cannot start a process: {reason}") from error
    try:
        lines = ProcessLines(process)
        if lines.next(limit_s=STARTING_S) is None:
            raise UnavailableError(f"the process of a sandbox check does not start: {describe_end(process)}; {_ADVICE}")
        for _ in request.configs:
            line = lines.next(limit_s=min(end_s - time.monotonic(), request.limits.step_s))
            if line is None:
                yield _SLOW_BUNDLE if time.monotonic() >= end_s else describe_end(process)
                return
            yield msgspec.json.decode(line, type=SandboxResult)
    finally:
        end_process(process)


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a bundle's passed configs, the latest last."""

    format_version: int = FORMAT_VERSION
    bundle_sha256: str
    passed: tuple[str, ...]


def passed_before(bundle_sha256: str) -> tuple[str, ...]:
    """Return the keys of a bundle's configs that passed here."""
    try:
        path = _path(bundle_sha256)
        if is_written_by_others(path.parent.stat()):
            return ()
        verdicts = decode_document(read_own_file(path, max_bytes=_MAX_BYTES), Verdicts, version=FORMAT_VERSION)
    except (OSError, UsageError, JsonError):
        return ()
    return verdicts.passed if verdicts.bundle_sha256 == bundle_sha256 else ()


def remember_passed(bundle_sha256: str, keys: tuple[str, ...]) -> str:
    """Remember passed configs; return why that failed, or an empty text."""
    try:
        path = _path(bundle_sha256)
        make_cache_folder(path.parent)
        earlier = tuple(key for key in passed_before(bundle_sha256) if key not in keys)
        verdicts = Verdicts(bundle_sha256=bundle_sha256, passed=(*earlier, *keys)[-_MAX_PASSED:])
        write_file(path, json_bytes(verdicts), own=True)
    except UsageError as error:
        return str(error)
    return ""


def _path(bundle_sha256: str) -> Path:
    return cache_folder("verdicts") / f"{bundle_sha256}.json"


def check_graphs(bundle: Bundle) -> None:
    """Raise BundleError if a graph is refused; the native engine checks its own files."""
    from mmkd_edge.install.graphs import check_graph, check_tflite  # rarely needed

    for entry in bundle.manifest.models:
        steps = () if entry.streaming is None else entry.streaming.artifacts
        for artifact in (*entry.artifacts, *steps):
            try:
                if artifact.format == "tflite":
                    check_tflite(bundle.read(artifact.file))
                elif artifact.format == "onnx":
                    check_graph(bundle.read(artifact.file), steps=artifact in steps)
            except ValueError as error:
                raise BundleError(
                    f"{bundle.path}: {artifact.file!r}: no engine is given this: {error}; export the bundle again"
                ) from error
