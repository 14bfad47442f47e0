"""Probes: extra-trees that guess the class or the split of unseen windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from mmkd_documents.data import Finding, ProbeFacts
from mmkd_edge.spec import TaskSpec
from mmkd_models.data.checking.related import problem
from mmkd_models.data.checking.scan import window_statistics
from mmkd_models.data.folds import part_of_windows
from mmkd_models.data.labels import block_length, name_strata
from mmkd_models.data.spec import SPLIT_NAMES, windows_at_once
from mmkd_models.data.windows import Floats, Rows, Windows
from mmkd_models.evaluation.gains import MIN_GROUPS, figure_draws
from mmkd_models.evaluation.outcome import outcome_on

Features = npt.NDArray[np.float64]

MAX_WINDOWS = 3000
_TREES = 100
_PARTS = 5
_INTERVAL = (0.005, 0.995)  # a report asks ten questions: with 95 % intervals one in four reports would be wrong
_FRAME_S = 0.025
_BANDS = 16
_MIN_POWER = 1e-10  # of full scale, -100 dB: below what a microphone hears


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeWindows:
    """At most `MAX_WINDOWS` windows, their numbers in `Dataset.everything()`, and features (N, F) by modality."""

    windows: Windows
    rows: Rows
    features: Mapping[str, Features]

    @property
    def all_features(self) -> Features:
        """Features (N, F) of all modalities."""
        return np.concatenate(list(self.features.values()), axis=1)

    @property
    def scaled_features(self) -> Features:
        """Features (N, F) of all modalities that vary, divided by their std."""
        features = self.all_features
        std = features.std(axis=0)
        return np.asarray(features[:, std > 0] / std[std > 0])


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeAnswers:
    """Answers to the windows of `index` (n,): `truth` (n,), `probabilities` (n, answers)."""

    facts: ProbeFacts
    index: Rows
    truth: Rows
    probabilities: Features
    names: tuple[str, ...]


def choose_windows(everything: Windows) -> ProbeWindows:
    """Choose windows evenly and compute their statistics."""
    count = min(MAX_WINDOWS, len(everything))
    rows = np.unique(np.linspace(0, len(everything) - 1, count).round().astype(np.int64))
    windows = everything.subset(rows)
    parts: dict[str, list[Features]] = {modality.name: [] for modality in windows.spec.modalities}
    block = min(map(windows_at_once, windows.spec.modalities))
    for start in range(0, len(windows), block):
        values = windows.take(np.arange(start, min(start + block, len(windows))))
        for modality in windows.spec.modalities:
            series = [values[modality.name]]
            if modality.kind == "audio":
                series.append(band_levels(series[0], modality.rate_hz))
            parts[modality.name].append(np.concatenate([window_statistics(part) for part in series], axis=1))
    features = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    return ProbeWindows(windows=windows, rows=rows, features=features)


def run_probes(probed: ProbeWindows) -> Iterator[ProbeAnswers | str]:
    """Yield every probe's answers, the class from all sensors first, or why it cannot run."""
    together = class_probe(probed, None)
    yield together
    if not isinstance(together, str):
        yield from (class_probe(probed, modality.name) for modality in probed.windows.spec.modalities)
    yield _ask(probed, probed.windows.splits, SPLIT_NAMES, question="split")


def class_probe(probed: ProbeWindows, modality: str | None) -> ProbeAnswers | str:
    """Guess the class in unseen groups, from one modality or all."""
    codes, names = name_strata(probed.windows.labels, probed.windows.spec.task)
    return _ask(probed, codes, names, question="class", modality=modality)


def _ask(
    probed: ProbeWindows, codes: Rows, names: tuple[str, ...], *, question: str, modality: str | None = None
) -> ProbeAnswers | str:
    windows, index = probed.windows, np.flatnonzero(codes >= 0)
    if question != "class":  # shared by whole groups: with few groups per answer, two alike decide
        fewest = min(len(np.unique(windows.groups[codes == code])) for code in np.unique(codes).tolist())
        if fewest < MIN_GROUPS:
            kind = "split" if question == "split" else "kind"
            return f"{question}: needs {MIN_GROUPS} groups or more in each {kind}, and one has {fewest}"
    groups = len(np.unique(windows.groups[index]))
    if groups < 3:
        return f"{question}: it takes three groups or more, and {groups} have it"
    if len(np.unique(codes[index])) < 2:
        return f"{question}: there is only one"
    if windows.has_groups:
        parts = part_of_windows(_as_classes(windows, codes, names), parts=min(_PARTS, windows.group_count), seed=0)
    else:
        parts = windows.groups % _PARTS
    features = probed.all_features if modality is None else probed.features[modality]
    x, y, fold = features[index], codes[index], parts[index]
    probabilities = np.zeros((len(index), len(names)))
    for part in np.unique(fold).tolist():
        here = fold == part
        if len(np.unique(y[~here])) > 1:
            answers, votes = fit_trees(x[~here], y[~here], x[here])
            probabilities[np.ix_(here, answers)] = votes
    judged = _as_classes(windows.subset(index), y, names)
    if groups < MIN_GROUPS:  # then blocks of neighbours are drawn
        judged = replace(judged, groups=np.arange(len(judged)) // block_length(len(judged)))
    outcome = outcome_on(judged, probabilities)
    low, high = map(float, np.nanquantile(figure_draws([outcome], "balanced_accuracy"), _INTERVAL))
    chance = 1 / len(np.unique(y))
    facts = ProbeFacts(
        target=question,
        modality=modality,
        score=outcome.scores.metric("balanced_accuracy"),
        low=low,
        high=high,
        chance=chance,
        windows=len(judged),
        is_better=low > chance,
    )
    return ProbeAnswers(facts=facts, index=index, truth=y, probabilities=probabilities, names=names)


def _as_classes(windows: Windows, codes: Rows, names: tuple[str, ...]) -> Windows:
    spec = msgspec.structs.replace(windows.spec, task=TaskSpec(labels=names))
    return replace(windows, spec=spec, labels=codes)


def fit_trees(x: Features, y: Rows, unseen: Features) -> tuple[Rows, Features]:
    """Fit extra-trees to (n, F) and codes (n,). Return the known codes and (m, codes) probabilities."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(n_estimators=_TREES, class_weight="balanced", random_state=0)
    forest.fit(x, y)
    return forest.classes_, forest.predict_proba(unseen)


def probe_findings(probe: ProbeFacts) -> Iterator[Finding]:
    """Yield a finding if a probe recognises the split."""
    if probe.target == "split" and probe.is_better:
        yield problem(
            "origin",
            f"extra-trees recognise the split from a window with balanced accuracy {probe.score:.0%} (99 % interval "
            f"from {probe.low:.0%}; chance {probe.chance:.0%}), of groups that they were not trained on",
            "the splits differ as wholes, in machine, sensor or campaign, and scores include that difference; deal the "
            "groups into splits again",
        )


def band_levels(sound: Floats, rate_hz: float) -> Floats:
    """Return the log power of bands (B, N, bands x C) of audio (B, T, C), by frame; missing samples count as 0."""
    length = min(sound.shape[1], max(2, round(_FRAME_S * rate_hz)))
    count = sound.shape[1] // length
    frames = np.nan_to_num(sound[:, : count * length]).reshape(len(sound), count, length, sound.shape[2])
    power = np.abs(np.fft.rfft(frames * np.hanning(length)[:, None], axis=2)) ** 2 / length**2
    edges = np.unique(np.geomspace(1, power.shape[2], _BANDS + 1).round().astype(int))
    bands = [power[:, :, low:high].sum(axis=2) for low, high in pairwise(edges.tolist())]
    return np.asarray(np.log10(np.concatenate(bands, axis=2) + _MIN_POWER))
