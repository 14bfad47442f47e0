"""What one machine makes of bundles, as JSON: the same program on each machine that is compared.

    python answers.py BUNDLE... > answers.json

Opens every bundle in every backend and precision that it has an artifact for, asks for its full self-test, every golden
window and a stream, and offers damaged copies. Needs the runtime alone.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mmkd_edge import Bundle, EdgePredictor, MmkdError, SelfTest, UnavailableError
from mmkd_edge.backends.base import BACKENDS, BackendName, is_installed
from mmkd_edge.bundle.manifest import Precision
from mmkd_edge.opening import sandbox

WINDOWS = 64
"""Golden windows that are compared between machines, and laid end to end for the stream."""

FLIPS, CUTS = 24, 8


class EmulatedWay(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle in one backend and precision.

    Attributes:
        refusal: why it cannot be opened here; then there is nothing else.
        failed: it cannot, though all that it needs is here: its self-test fails, say.
        version: the library behind the backend.
        selftest: on all golden windows.
        probabilities: of the first `WINDOWS` golden windows, (N, K).
        streamed: of the predictions of a stream over these windows end to end, (M, K): half a window apart, or as many
            whole steps of a causal student as that has.
    """

    bundle: str
    backend: BackendName
    precision: Precision
    refusal: str = ""
    failed: bool = False
    version: str = ""
    selftest: SelfTest | None = None
    probabilities: list[list[float]] = []
    streamed: list[list[float]] = []


class MachineAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine made of bundles.

    Attributes:
        damaged: of each bundle, how many damaged copies were offered and how many were refused with exit code 6.
    """

    machine: str
    python: str
    ways: list[EmulatedWay]
    damaged: dict[str, tuple[int, int]]


def main() -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--slow", type=float, default=1.0, help="how many times as long a trial may take")
    parser.add_argument("--backend", action="append", choices=tuple(BACKENDS), help="each that is installed, else")
    options = parser.parse_args()
    give_time(options.slow)
    ways = [way for bundle in options.bundles for way in ways_of(bundle, options.backend or tuple(BACKENDS))]
    damaged = {bundle.name: damaged_copies(bundle) for bundle in options.bundles}
    found = MachineAnswers(machine=platform.machine(), python=platform.python_version(), ways=ways, damaged=damaged)
    print(msgspec.json.encode(found).decode())


def give_time(factor: float) -> None:
    """Let the trial of a bundle take longer, as a machine made of software does."""
    way_s, starting_s = factor * sandbox.CONFIG_S, factor * sandbox.STARTING_S
    vars(sandbox).update(CONFIG_S=way_s, STARTING_S=starting_s)


def ways_of(path: Path, backends: Sequence[BackendName]) -> list[EmulatedWay]:
    """The bundle in each of these backends that is installed and every precision that it has an artifact of."""
    with Bundle.open(path) as bundle:
        have = {(one.format, one.precision) for one in bundle.manifest.models[0].artifacts}
        golden = bundle.golden(bundle.manifest.models[0].name).windows[:WINDOWS]
    found = []
    for backend in (one for one in backends if is_installed(one)):
        row = BACKENDS[backend]
        for precision in row.precisions:
            if any((format_, precision) in have for format_ in row.formats):
                sys.stderr.write(f"{path.name} in {backend}, {precision}\n")
                found.append(way_of(path, golden, backend, precision))
    return found


def way_of(path: Path, golden: np.ndarray, backend: BackendName, precision: Precision) -> EmulatedWay:
    """The bundle in one backend and precision."""
    try:
        predictor = EdgePredictor.open(path, backend=backend, precision=precision, threads=1)
    except MmkdError as error:
        failed = not isinstance(error, UnavailableError)
        return EmulatedWay(bundle=path.name, backend=backend, precision=precision, refusal=str(error), failed=failed)
    with predictor:
        answers = [predictor.predict(window).probabilities for window in golden]
        step = 1 if predictor.entry.streaming is None else predictor.entry.streaming.stride
        stream = predictor.stream(hop=max(golden.shape[1] // 2 // step, 1) * step)
        streamed = [found.probabilities for window in golden for found in stream.push(window)]
        return EmulatedWay(
            bundle=path.name,
            backend=backend,
            precision=precision,
            version=predictor.backend.version,
            selftest=predictor.selftest(),
            probabilities=np.stack(answers).tolist(),
            streamed=np.stack(streamed).tolist(),
        )


def damaged_copies(path: Path) -> tuple[int, int]:
    """Offer copies with a flipped bit or a lost end; return their number and how many were refused as damaged."""
    data, dice, refused = path.read_bytes(), random.Random(0), 0
    copies = [bytearray(data) for _ in range(FLIPS)]
    for copy in copies:
        copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
    copies += [bytearray(data[: dice.randrange(len(data))]) for _ in range(CUTS)]
    with tempfile.TemporaryDirectory() as folder:
        for number, copy in enumerate(copies):
            damaged = Path(folder) / f"{number}.edge"
            damaged.write_bytes(copy)
            try:
                EdgePredictor.open(damaged).close()
            except MmkdError as error:
                refused += error.exit_code == 6
    return len(copies), refused


if __name__ == "__main__":
    main()
