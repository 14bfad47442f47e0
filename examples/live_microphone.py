"""A student of a microphone answers while sound comes: from a recorded file, or piped from any program that records.

    python examples/live_microphone.py voice.edge talk.wav
    arecord -f S16_LE -r 16000 -c 1 -t raw | python examples/live_microphone.py voice.edge - --rate-hz 16000

Sound at another rate than the student's is resampled chunk by chunk; record at its rate where you can.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmkd_edge import EdgePredictor

CHUNK_S = 0.1


def chunks(source: str, rate_hz: int) -> Iterator[tuple[np.ndarray, int]]:
    """Mono float32 from -1 to 1, a tenth of a second at a time, and its rate."""
    if source == "-":
        count = round(rate_hz * CHUNK_S)
        while raw := sys.stdin.buffer.read(2 * count):
            yield np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float32) / 32768, rate_hz
        return
    import soundfile

    with soundfile.SoundFile(source) as opened:
        for block in opened.blocks(round(opened.samplerate * CHUNK_S), dtype="float32", always_2d=True):
            yield block.mean(axis=1), opened.samplerate


def main() -> None:
    """Push every chunk, and print every answer."""
    from scipy.signal import resample_poly

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", help="WAV, FLAC or OGG; - reads 16 bit from standard input")
    parser.add_argument("--rate-hz", type=int, default=16000, help="of standard input")
    options = parser.parse_args()
    with EdgePredictor.open(options.bundle) as predictor:
        own_hz = round(predictor.modality.rate_hz)
        stream, heard = predictor.stream(hop=max(1, predictor.modality.samples // 2)), 0
        for chunk, rate_hz in chunks(options.source, options.rate_hz):
            samples = chunk if rate_hz == own_hz else resample_poly(chunk, own_hz, rate_hz)
            heard += len(samples)
            for answer in stream.push(samples[:, None].astype(np.float32)):
                seconds = heard / own_hz
                print(f"{seconds:9.2f} s  {answer.label or '-':<12} {answer.probability or 0:.2f}  {answer.status}")


if __name__ == "__main__":
    main()
