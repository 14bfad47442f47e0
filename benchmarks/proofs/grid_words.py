"""The shipped cut of GRID, from a folder of its recordings: ten digits, seen by a camera and heard by a microphone.

    python benchmarks/proofs/grid_words.py FOLDER -o models/mmkd_models/data/grid_words

FOLDER holds of talker 1 of the corpus (Zenodo record 3625687, CC BY 4.0) what `words.csv`, lines of clip, start_s,
end_s and word, names: `sound/CLIP.flac`, 16 kHz, and `video/CLIP.mp4`, gray, the box of 160x112 pixels at x = 80,
y = 168 of the 360x288 recorded ones. Of each digit 48 sentences are drawn by a fixed seed and dealt into five folds. A
window is 0.4 s in the middle of the digit: 10 frames of the mouth, 30x20 pixels, and sound at 8 kHz. LICENSE and
SOURCE.md, which lie beside the arrays in the package, are written by hand. Takes a minute.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmkd_models.data import Dataset, Windows, write_dataset
from mmkd_models.data.importing.from_recipe import import_recipe
from mmkd_models.data.importing.recipe import ImportRecipe, LabelRule, SensorSource, SplitRule, WindowRule
from mmkd_models.data.spec import SPLIT_NAMES
from proofs.script import parser_of

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OF_EACH, FOLDS, SEED = 48, 5, 0
MOUTH = (52, 30, 60, 40)
"""x, y, width and height in the pixels of the files: where talker 1 has it, however he sits."""
SOURCE = "GRID corpus, talker 1: Cooke, Barker, Cunningham and Shao, JASA 120 (2006) 2421, Zenodo record 3625687"


def main() -> None:
    """Cut the words and write the dataset."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with video/, sound/ and words.csv")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the dataset to make")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        every = import_recipe(recipe(arguments.folder), arguments.folder, Path(scratch) / "words").built.dataset
        dataset = cut(every, arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"wrote {arguments.out}: {dataset!r}, {size:,} bytes")


def recipe(folder: Path) -> ImportRecipe:
    """How the digits are cut out of the sentences; every other word is left alone."""
    with (folder / "words.csv").open(newline="") as file:
        others = {line["word"] for line in csv.DictReader(file)} - set(DIGITS)
    return ImportRecipe(
        version=1,
        source=(
            SensorSource(modality="lips", files="video/{clip}.mp4", rate_hz=25.0, region=MOUTH, height=20, width=30),
            SensorSource(
                modality="voice", kind="audio", files="sound/{clip}.flac", channels={"mono": "1"}, resample_hz=8000.0
            ),
        ),
        labels=LabelRule(
            files="words.csv",
            start="start_s",
            end="end_s",
            label="word",
            time_unit="s",
            match={"clip": "clip"},
            classes=DIGITS,
            ignore=tuple(sorted(others)),
        ),
        windows=WindowRule(length_s=0.4, at="intervals"),
        split=SplitRule(group="clip"),
    )


def cut(every: Dataset, out: Path) -> Dataset:
    """Writes so many windows of each digit, dealt into folds; the first fold is test, the second valid."""
    windows = every.everything()
    rows, folds = drawn(windows.labels)
    splits: dict[str, dict[str, Any]] = {
        name: arrays_of(windows, rows[chosen], folds[chosen])
        for name, chosen in zip(SPLIT_NAMES, (folds > 1, folds == 1, folds == 0), strict=True)
    }
    return write_dataset(
        out,
        name="grid_words",
        labels=DIGITS,
        modalities=every.spec.modalities,
        splits=splits,
        source=SOURCE,
        licence="CC-BY-4.0",
    )


def drawn(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows, ascending, and the fold of each: of every class so many, no fold with two more of it than another."""
    rng = np.random.default_rng(SEED)
    fold_of = np.full(len(labels), -1, dtype=np.int64)
    for label in range(len(DIGITS)):
        chosen = rng.permutation(np.flatnonzero(labels == label))[:OF_EACH]
        fold_of[chosen] = (np.arange(OF_EACH) + label) % FOLDS
    rows = np.flatnonzero(fold_of >= 0)
    return rows, fold_of[rows]


def arrays_of(windows: Windows, rows: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The windows as they are stored: sound in int16, as the import had it."""
    taken = windows.take(rows)
    counts = np.rint(taken["voice"] * 32768).astype(np.int16)
    labels = windows.labels[rows]
    return {"lips": taken["lips"], "voice": counts, "labels": labels, "groups": windows.groups[rows], "folds": folds}


if __name__ == "__main__":
    main()
