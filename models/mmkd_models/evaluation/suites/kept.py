"""Answers that are kept in a folder: what a model said of windows is asked once, also by a run after a kill.

Owns the file of each portion, one model on one condition, named by a hash of everything that decides it: equal bytes
are read back, so that figures are equal too. Models without a hash, such as rivals, are asked every time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mmkd_edge import __version__
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import CheckpointError
from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.suites.answering import Answers, AskedModel
from mmkd_models.evaluation.suites.under_faults import FaultySource


def with_kept_answers(models: Iterable[AskedModel], folder: Path, dataset_sha256: str) -> Iterator[AskedModel]:
    """Gives the same models, whose answers to windows of this dataset are read where they are in the folder."""
    for one in models:
        if not one.facts.sha256:
            yield one
            continue
        yield replace(one, ask=partial(_kept, one, folder=folder, dataset_sha256=dataset_sha256))


def ask(portions: Sequence[tuple[AskedModel, Windows]], *, number: int, of: int) -> None:
    """Asks each portion whose place divided by `of` leaves `number`, so that its answers are kept."""
    for one, windows in portions[number::of]:
        one.answers(windows)


def _kept(one: AskedModel, windows: Windows, *, folder: Path, dataset_sha256: str) -> Answers:
    path = folder / f"{_key(one, windows, dataset_sha256)}.npy"
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        pass
    except (ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: expected kept answers, got a damaged file ({error}); delete it") from error
    answers, written = one.ask(windows), io.BytesIO()
    np.save(written, answers, allow_pickle=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, written.getvalue())
    return answers


def _key(one: AskedModel, windows: Windows, dataset_sha256: str) -> str:
    facts, source = one.facts, windows.source
    digest = hashlib.sha256()
    said = [__version__, facts.sha256, facts.artifact, *facts.modalities, dataset_sha256]
    if isinstance(source, FaultySource):
        said += [source.name, f"{source.severity!r}", f"{source.seed}"]
        for name, sensor in sorted(source.sensors.items()):
            said += [name, sensor.mean.tobytes().hex(), sensor.std.tobytes().hex()]
    digest.update("\n".join(said).encode())
    digest.update(np.ascontiguousarray(windows.rows).tobytes())
    return digest.hexdigest()
