"""A small dataset of all kinds: a slow series, a tone, and a blob that moves; the class shows in the last two."""

import numpy as np

from mmkd_edge.frames import mask_missing
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data import write_dataset

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=20)
MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=2000.0, samples=800)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=10, height=12, width=16)
SIZES = {"train": 24, "valid": 12, "test": 12}


def make_windows(split):
    """Windows in turn of the classes still, left and right; one has a gap of sound, another misses frames."""
    count = SIZES[split]
    rng = np.random.default_rng(count + len(split))
    labels, time = np.arange(count) % 3, np.arange(MIC.samples) / MIC.rate_hz
    tone = np.sin(2 * np.pi * np.array([150, 300, 600])[labels, None] * time + rng.uniform(0, 6, (count, 1)))
    mic = (0.2 * tone + 0.05 * rng.normal(size=tone.shape)).astype(np.float32)[..., None]
    mic[0, 100:300] = np.nan
    cam = rng.integers(60, 100, (count, *CAM.shape), dtype=np.uint8)
    for window, label in zip(cam, labels, strict=True):
        for number, frame in enumerate(window):
            place = (5, 12 - number, 2 + number)[label]
            frame[4:8, place : place + 4] += 100
    missing = np.zeros((count, CAM.samples), dtype=bool)
    missing[1, 3:5] = True
    return {
        "acc": rng.normal(size=(count, *ACC.shape)).astype(np.float32),
        "mic": mic,
        "cam": mask_missing(cam, missing),
        "labels": labels,
        "groups": list(SIZES).index(split) * 100 + np.arange(count) // 4,
    }


def kinds_dataset(path):
    """Writes it, and gives it opened."""
    return write_dataset(
        path,
        name="kinds",
        labels=["still", "left", "right"],
        modalities=[ACC, MIC, CAM],
        splits={split: make_windows(split) for split in SIZES},
    )
