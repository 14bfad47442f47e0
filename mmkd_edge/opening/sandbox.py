"""The sandbox check: a bundle that is new here is opened in a child process first.

Passed configs are remembered by bundle hash in the user's cache folder; files that others can write are ignored.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
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
from mmkd_edge.opening.choice import StudentConfig, library_versions
from mmkd_edge.opening.deadline import Deadline
from mmkd_edge.opening.options import OpenOptions
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


class SandboxChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a bundle's configs here; each check returns a new value, saved before it is returned.

    Attributes:
        keys: a line for each config, by student and config, with everything that its result depends on.
        earlier: keys that passed at an earlier start; `passed` those of this one.
        refused: name and message of an `mmkd_edge.errors` error, by key.
        spent_s: on checks so far, by whether engines were built.
        unsaved: why a later start checks again, or empty.
    """

    bundle: Bundle
    options: OpenOptions
    deadline: Deadline
    keys: Mapping[tuple[str, Config], str]
    earlier: tuple[str, ...]
    passed: tuple[str, ...] = ()
    refused: Mapping[str, tuple[str, str]] = {}
    spent_s: tuple[float, float] = (0.0, 0.0)
    unsaved: str = ""

    @classmethod
    def begin(
        cls, bundle: Bundle, configs: Iterable[StudentConfig], options: OpenOptions, deadline: Deadline
    ) -> SandboxChecks:
        """Return what earlier starts knew."""
        machine, tested = this_machine().key, "" if options.selftest else _UNTESTED
        keys = {}
        for entry, config in configs:
            versions = library_versions((config.backend,)).items()
            library = " ".join(f"{name} {version}" for name, version in versions) or "of an unknown version"
            named = f"{entry.name} {config.precision} {config.backend} {library}"
            keys[entry.name, config] = f"{named} threads={config.threads} {machine}{tested}"
        earlier = passed_before(bundle.sha256)
        return cls(bundle=bundle, options=options, deadline=deadline, keys=keys, earlier=earlier)

    def check(self, *pairs: StudentConfig) -> SandboxChecks:
        """Run the sandbox checks of all new configs together."""
        if self.options.trust == "installed":
            return self
        known = (*self.passed, *self.refused)
        new = []
        for entry, config in pairs:
            key = self.keys[entry.name, config]
            if not (BACKENDS[config.backend].is_own or key in known or self._passed_earlier(key)):
                new.append((entry, config))
        if new:
            check_graphs(self.bundle)
        checks = self
        for builds in (False, True):  # engine builds may take longer, and fail alone
            waiting = [
                (entry, config)
                for entry, config in new
                if BACKENDS[config.backend].on_gpu is builds and not why_absent(config.backend)
            ]
            while waiting:
                checks, waiting = checks._run(waiting, builds=builds)
        return checks

    def require(self, entry: ModelEntry, config: Config) -> None:
        """Raise the error of a config that was refused."""
        if refusal := self.refused.get(self.keys[entry.name, config]):
            raise find_error_class(refusal[0])(refusal[1])

    def needs_selftest(self, student: OpenStudent) -> bool:
        """Return whether an opened student must still answer its golden windows."""
        key = self._key_of(student)
        return self.options.selftest and not (key in self.passed or self._passed_earlier(key))

    def with_selftests(self, students: Iterable[OpenStudent]) -> SandboxChecks:
        """Return it with students that passed their self-test."""
        return self._with_passed([self._key_of(student) for student in students])

    def describe(self, student: OpenStudent, *, returned: str) -> OpenStudent:
        """Return a student with the time of each check; `returned` is why an older bundle answers."""
        result = "passed at an earlier start"
        if not self._passed_earlier(self._key_of(student)):
            suffix = f" and at each start, since it cannot be remembered: {self.unsaved}" if self.unsaved else ""
            result = f"passed now{suffix}"
        check = result
        if self.options.trust == "installed":
            check = "; ".join(filter(None, ("passed when the bundle was installed", returned)))
        elif student.config is not None and BACKENDS[student.config.backend].is_own:
            check = "none: the native engine checks its own files"
        selftest = result if self.options.selftest else ""
        return msgspec.structs.replace(student, selftest=selftest, sandbox_check=check)

    def _key_of(self, student: OpenStudent) -> str:
        assert student.config is not None
        return self.keys[student.entry.name, student.config]

    def _passed_earlier(self, key: str) -> bool:
        """A passed self-test covers opening."""
        return key in self.earlier or key.removesuffix(_UNTESTED) in self.earlier

    def _with_passed(self, keys: Iterable[str]) -> SandboxChecks:
        new = tuple(key for key in keys if key not in self.passed)
        if not new:
            return self
        unsaved = remember_passed(self.bundle.sha256, new)
        return msgspec.structs.replace(self, passed=(*self.passed, *new), unsaved=unsaved)

    def _run(self, waiting: list[StudentConfig], *, builds: bool) -> tuple[SandboxChecks, list[StudentConfig]]:
        """Return it with the results of one process, and the configs without a result."""
        # Most starts run no sandbox check.
        from mmkd_edge.apart import ProcessLimits
        from mmkd_edge.opening.sandbox_process import SandboxRequest

        request = SandboxRequest(
            bundle=os.path.abspath(self.bundle.path),  # noqa: PTH100 - links stay links
            bundle_sha256=self.bundle.sha256,
            configs=tuple((entry.name, config) for entry, config in waiting),
            selftest=self.options.selftest,
            limits=ProcessLimits(
                step_s=BUILD_S if builds else CONFIG_S,
                memory_bytes=BUILD_MEMORY_BYTES if builds else MEMORY_BYTES,
                file_bytes=ENGINE_BYTES if builds else 0,
            ),
        )
        begun_s = time.monotonic()
        left_s = (BUNDLE_BUILD_S if builds else self.deadline.limit_s) - self.spent_s[builds]
        with self.deadline.extended(left_s if builds else 0.0):
            results = list(_results(request, limit_s=left_s))
        passed, refused = [], dict(self.refused)
        for result, (entry, config) in zip(results, waiting, strict=False):
            key = self.keys[entry.name, config]
            if isinstance(result, str):
                message = (
                    f"{self.bundle.path}: the sandbox check of backend {config.backend!r} failed: {result}; do not use "
                    "this bundle with it"
                )
                refused[key] = (BackendError.__name__, message)
            elif result.error:
                refused[key] = (result.error, result.message)
            else:
                passed.append(key)
        spent_s = list(self.spent_s)
        spent_s[builds] += time.monotonic() - begun_s
        checks = msgspec.structs.replace(self, refused=refused, spent_s=tuple(spent_s))
        return checks._with_passed(passed), waiting[len(results) :]


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
