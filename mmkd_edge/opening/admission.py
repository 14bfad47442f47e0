"""Who may open a bundle in this process: ways that have passed here, and those that pass a trial now.

The first time that a machine meets a bundle, its graphs are read by us, and then a process of its own opens it in every
way that may be taken and holds it against its golden windows. What crashes, hangs or takes all memory does so there.
Owns which ways are tried, and what is remembered of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mmkd_edge.backends.base import BACKENDS, why_absent
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import Artifact, ModelEntry
from mmkd_edge.errors import BackendError, BundleError, error_named
from mmkd_edge.install.verdicts import passed_before, remember_passed
from mmkd_edge.machine import this_machine
from mmkd_edge.opening.trial import TrialEvent, TrialRequest
from mmkd_edge.predict.profile import library_versions
from mmkd_edge.predict.setup import OpeningRequest, Setup

if TYPE_CHECKING:
    from mmkd_edge.install.graph_shapes import GraphCost

MOST_OPERATIONS = 20_000_000_000
"""Of one prediction of every student of a bundle: some seconds on a PC, where a student takes milliseconds."""
MOST_MEMORY_BYTES = 2 << 30
"""The same of the tensors that are computed; a student takes some MB."""
_UNASKED = " unasked"
AdmissionWay = tuple[ModelEntry, Setup]


class Admission:
    """Which ways to run a bundle's students may be opened in this process.

    Args:
        bundle: whose students they are.
        asked: how it is opened.
        returned: why it answers instead of the bundle installed last; empty if it is that one.
    """

    def __init__(self, bundle: Bundle, asked: OpeningRequest, *, returned: str = "") -> None:
        self._returned = returned
        self._bundle = bundle
        self._asked = asked
        self._machine = this_machine().key
        self._earlier = passed_before(bundle.sha256)
        self._now: set[str] = set()
        self._refused: dict[str, TrialEvent] = {}
        self._texts: dict[tuple[str, Setup], str] = {}
        self._unsaved = ""
        self._spent_s = {False: 0.0, True: 0.0}  # by trials that build engines, and by others

    def text_of(self, way: AdmissionWay) -> str:
        """A way in one line: what must be the same for a verdict to hold."""
        entry, setup = way
        known = self._texts.get((entry.name, setup))
        if known is not None:
            return known
        library = " ".join(f"{name} {version}" for name, version in library_versions((setup.backend,)).items())
        options = msgspec.json.encode(setup.options).decode()
        named = f"{entry.name} {setup.precision} {setup.backend} {library or 'of an unknown version'}"
        text = f"{named} threads={setup.threads} {options} {self._machine}"
        text = text if self._asked.selftest else text + _UNASKED
        self._texts[entry.name, setup] = text
        return text

    def try_new(self, ways: Sequence[AdmissionWay]) -> None:
        """Read the graphs, and hold a trial of every way that is new here.

        Raises:
            BundleError: a graph is one that no engine may be handed.
            UnavailableError: no process can be started for a trial.
        """
        if self._asked.trust == "installed":
            return
        known = self._now | set(self._refused)
        new = {text: way for text, way in ((self.text_of(way), way) for way in ways) if not self._knew(text)}
        new = {text: way for text, way in new.items() if text not in known}
        if not new:
            return
        check_graphs(self._bundle)
        waiting = {text: way for text, way in new.items() if not why_absent(way[1].backend)}
        for builds in (False, True):  # what builds engines may take more, and takes nobody along where it fails
            alike = {text: way for text, way in waiting.items() if BACKENDS[way[1].backend].on_gpu is builds}
            while alike:
                self._hold_trial(alike, builds=builds)

    def check(self, way: AdmissionWay) -> None:
        """Nothing, where a way may be opened here; holds its trial first where it is new.

        Raises:
            MmkdError: what the trial met; a `BackendError` says how its process ended.
        """
        self.try_new([way])
        refusal = self._refused.get(self.text_of(way))
        if refusal is not None:
            raise error_named(refusal.kind)(refusal.message)

    def asks(self, way: AdmissionWay) -> bool:
        """Whether a way that was opened here has still to answer its golden windows."""
        text = self.text_of(way)
        return self._asked.selftest and not self._knew(text) and text not in self._now

    def keep(self, ways: Sequence[AdmissionWay]) -> None:
        """Keep that ways have passed, here or in a trial."""
        self._keep([self.text_of(way) for way in ways])

    def told_selftest(self, way: AdmissionWay) -> str:
        """When a way has answered its golden windows, for people; empty where nobody asks."""
        return self._when(way) if self._asked.selftest else ""

    def told_trial(self, way: AdmissionWay) -> str:
        """When a way was tried in a process of its own, for people."""
        if self._asked.trust == "installed":
            told = "it was held when the bundle was installed"
            return f"{told}; {self._returned}" if self._returned else told
        return self._when(way)

    def _when(self, way: AdmissionWay) -> str:
        if self._knew(self.text_of(way)):
            return "passed at an earlier start"
        each = f" and at each start, since it cannot be remembered: {self._unsaved}" if self._unsaved else ""
        return f"passed now{each}"

    def _knew(self, text: str) -> bool:
        """Whether a way had passed before this opening; one that has answered has opened too."""
        return text in self._earlier or text.removesuffix(_UNASKED) in self._earlier

    def _hold_trial(self, waiting: dict[str, AdmissionWay], *, builds: bool) -> None:
        """Try ways in one process, and take from those that wait the ones of which something is known then."""
        # Imported here: it brings subprocess, and most starts hold no trial.
        from mmkd_edge.opening.trial_process import BUNDLE_BUILD_S, BUNDLE_S, hold_trial, limits_of

        request = TrialRequest(
            bundle=os.path.abspath(self._bundle.path),  # noqa: PTH100 - links stay links
            bundle_sha256=self._bundle.sha256,
            ways=tuple((entry.name, setup) for entry, setup in waiting.values()),
            questions=self._asked.selftest,
            limits=limits_of(builds=builds),
        )
        passed = []
        begun = time.monotonic()
        left_s = (BUNDLE_BUILD_S if builds else BUNDLE_S) - self._spent_s[builds]
        for text, event in zip(tuple(waiting), hold_trial(request, limit_s=left_s), strict=False):
            setup = waiting.pop(text)[1]
            if isinstance(event, str):
                self._refused[text] = TrialEvent(
                    kind=BackendError.__name__,
                    message=f"{self._bundle.path}: the trial of backend {setup.backend!r} in a process of its own "
                    f"failed: {event}; do not use this bundle with it",
                )
            elif event.kind:
                self._refused[text] = event
            else:
                passed.append(text)
        self._spent_s[builds] += time.monotonic() - begun
        self._keep(passed)

    def _keep(self, texts: Sequence[str]) -> None:
        new = [text for text in texts if text not in self._now]
        if new:
            self._now |= set(new)
            self._unsaved = remember_passed(self._bundle.sha256, tuple(new))


def check_graphs(bundle: Bundle) -> None:
    """Check that an engine may be given every graph of a bundle, and that all students together fit the budget.

    Raises:
        BundleError: a graph is refused, or one prediction of all students costs too much.
    """
    operations = memory = 0
    for entry in bundle.manifest.models:
        steps, slots = ((), 0) if entry.streaming is None else (entry.streaming.artifacts, entry.streaming.slots)
        # Of each list one artifact is open at a time.
        for costs in (
            [_cost_of(bundle, one) for one in entry.artifacts],
            [_cost_of(bundle, one, slots) for one in steps],
        ):
            operations += max((cost.operations for cost in costs), default=0)
            memory += max((cost.memory_bytes for cost in costs), default=0)
    for cost, most, unit in ((operations, MOST_OPERATIONS, "operations"), (memory, MOST_MEMORY_BYTES, "bytes")):
        if cost > most:
            raise BundleError(
                f"{bundle.path}: one prediction of every student: expected at most {most:.3g} {unit}, got {cost:.3g}; "
                "export smaller students"
            )


def _cost_of(bundle: Bundle, artifact: Artifact, slots: int = 0) -> GraphCost:
    from mmkd_edge.install.graphs import check_graph  # most starts read no graph
    from mmkd_edge.install.tflite_graphs import check_tflite

    model = bundle.read(artifact.file)
    try:
        return check_graph(model, slots=slots) if artifact.format == "onnx" else check_tflite(model)
    except ValueError as error:
        raise BundleError(
            f"{bundle.path}: {artifact.file!r}: no engine is given this: {error}; export the bundle again"
        ) from error
