"""A dataset whose microphone stands in noise: what is heard of each window, with white noise added once and for all.

    python benchmarks/proofs/noisy_sound.py -o noisy
    mmkd-demo --dataset noisy --modality voice --labelled-groups 96 --seeds 5

Without DATA the shipped `grid_words` is taken. The noise of a window has its power over `--snr-db`, as the fault
`added noise` of `mmkd-evaluate` has it, and is drawn by `--seed`: training, validation and test hear as much. Windows
that would leave -1 to 1 are made quieter as a whole. Everything but this modality stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_edge.errors import UsageError
from mmkd_models.data import Dataset, Windows, write_dataset
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.data.spec import SPLIT_NAMES
from proofs.script import parser_of

Floats = npt.NDArray[np.float32]


def main() -> None:
    """Write the dataset with noise."""
    parser = parser_of(__doc__)
    parser.add_argument("data", nargs="?", help="dataset directory; default the shipped words")
    parser.add_argument("--modality", default="voice", help="the microphone")
    parser.add_argument("--snr-db", type=float, default=0.0, help="signal to noise of each window")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the dataset to make")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data or shipped_dataset("grid_words"))
    made = with_noise(
        dataset,
        arguments.modality,
        snr_db=arguments.snr_db,
        rng=np.random.default_rng(arguments.seed),
        out=arguments.out,
    )
    print(f"wrote {arguments.out}: {made!r}")


def with_noise(dataset: Dataset, modality: str, *, snr_db: float, rng: np.random.Generator, out: Path) -> Dataset:
    """Writes the dataset with noise in one modality, split by split.

    Raises UsageError where that is no sound.
    """
    spec = dataset.spec
    if spec.modality(modality).kind != "audio":
        raise UsageError(
            f"modality {modality!r}: expected sound, got {spec.modality(modality).kind}; name a microphone"
        )
    splits: dict[str, dict[str, Any]] = {
        name: _arrays(dataset.split(name), modality, snr_db, rng) for name in SPLIT_NAMES
    }
    return write_dataset(
        out,
        name=f"{spec.name}_{modality}_{snr_db:g}db",
        labels=spec.task,
        modalities=spec.modalities,
        splits=splits,
        source=spec.source,
        licence=spec.licence,
    )


def noisy(sound: Floats, *, snr_db: float, rng: np.random.Generator) -> Floats:
    """Sound (N, T, C) with white noise of each window's own power over the signal to noise; NaN stays missing."""
    power = np.nanmean(np.square(sound), axis=1, keepdims=True)
    level = np.sqrt(power / 10 ** (snr_db / 10))
    found = sound + level * rng.standard_normal(sound.shape, dtype=np.float32)
    loudest = np.nanmax(np.abs(found), axis=(1, 2), keepdims=True)
    quieter: Floats = (found / np.maximum(loudest, 1.0)).astype(np.float32)
    return quieter


def _arrays(windows: Windows, modality: str, snr_db: float, rng: np.random.Generator) -> dict[str, Any]:
    taken: dict[str, Any] = dict(windows.take(np.arange(len(windows))))
    taken[modality] = noisy(taken[modality], snr_db=snr_db, rng=rng)
    facts: dict[str, Any] = {
        "labels": windows.labels,
        "groups": windows.groups,
        "folds": windows.folds,
        "times": windows.times,
    }
    facts |= {"episodes": windows.episodes, "columns": windows.columns or None}
    return taken | {key: values for key, values in facts.items() if values is not None}


if __name__ == "__main__":
    main()
