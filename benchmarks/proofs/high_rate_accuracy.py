"""Does a long window in frames tell as much as one taken whole? Synthetic vibration of 4,096 samples: one table.

    python benchmarks/proofs/high_rate_accuracy.py

Four classes of three channels of noise that differ in the frequency of a weak line, high, low or slow, or in how often
something strikes that rings at 3 kHz. A student of the preset `tiny` learns from 400 windows for 120 steps and
is judged by 400 others, in frames and with the window taken whole. Takes some four minutes of one core.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import torch
from torch import Tensor

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import student_config
from mmkd_models.networks.student import Student
from proofs.script import head, parser_of, row

SAMPLES, RATE_HZ, WINDOWS, STEPS = 4096, 10_000.0, 400, 120
FREQUENCIES_HZ: Mapping[str, tuple[int, ...]] = {
    "high": (1000, 1300, 2100, 2600), "low": (60, 90, 135, 200), "slow": (5, 8, 13, 20), "impacts": (30, 47, 71, 107)
}  # fmt: skip


def main() -> None:
    """Learn each kind of difference twice, and print the accuracies."""
    parser = parser_of(__doc__)
    parser.add_argument("--kind", action="append", choices=tuple(FREQUENCIES_HZ), help="only these; repeatable")
    kinds = parser.parse_args().kind or tuple(FREQUENCIES_HZ)
    torch.set_num_threads(1)
    print(head("accuracy, %", "whole", "frames"))
    for kind in kinds:
        print(row(kind, *(f"{accuracy(kind, framed=framed):.1%}" for framed in (False, True))), flush=True)


def accuracy(kind: str, *, framed: bool) -> float:
    """Share of the judging windows that a student answers rightly."""
    windows, labels = drawn(kind, seed=0)
    student = learner(framed=framed)
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(WINDOWS, (32,), generator=generator)
        loss = torch.nn.functional.cross_entropy(answers(student.train(), windows[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch
        optimiser.step()
        schedule.step()
    windows, labels = drawn(kind, seed=1)
    with torch.no_grad():
        found = torch.cat([answers(student.eval(), part) for part in torch.split(windows, 50)]).argmax(1)
    return float((found == labels).float().mean())


def learner(*, framed: bool) -> Student:
    """An untrained student; without frames as it was before there were any."""
    config = student_config("tiny")
    if not framed:
        config = msgspec.structs.replace(config, encoder=msgspec.structs.replace(config.encoder, frame=None))
    torch.manual_seed(0)
    modality = ModalitySpec(name="vibration", channels=("x", "y", "z"), rate_hz=RATE_HZ, samples=SAMPLES)
    return Student(modality, 4, config)


def answers(student: Student, windows: Tensor) -> Tensor:
    """Logits (B, 4)."""
    logits: Tensor = student(windows, torch.ones_like(windows)).logits
    return logits


def drawn(kind: str, *, seed: int) -> tuple[Tensor, Tensor]:
    """Windows (N, T, 3) and their classes (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, WINDOWS)
    windows = np.zeros((WINDOWS, SAMPLES, 3), dtype=np.float32)
    for number, label in enumerate(labels):
        noise = rng.standard_normal((SAMPLES, 3))
        frequency_hz = FREQUENCIES_HZ[kind][label] * (1 + 0.02 * rng.standard_normal())
        windows[number] = noise + (impacts if kind == "impacts" else line)(frequency_hz, rng)
    return torch.from_numpy(windows), torch.from_numpy(labels)


def line(frequency_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A sine of a third of the noise's size, its phase drawn for each channel: (T, 3)."""
    angle = 2 * np.pi * frequency_hz * np.arange(SAMPLES) / RATE_HZ
    return 0.35 * np.sin(angle[:, None] + rng.uniform(0, 6, 3))


def impacts(frequency_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Strikes at that rate, each ringing for a millisecond at 3 kHz: (T, 1)."""
    period, strikes = RATE_HZ / frequency_hz, np.zeros(SAMPLES)
    strikes[np.arange(rng.uniform(0, period), SAMPLES, period).astype(int)] = 1
    ringing = np.exp(-np.arange(60) / 12) * np.sin(2 * np.pi * 0.3 * np.arange(60))
    return 3 * np.convolve(strikes, ringing)[:SAMPLES, None]


if __name__ == "__main__":
    main()
