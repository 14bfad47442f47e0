"""A student of a camera answers while frames come: from a camera, a GStreamer string, or a recorded film.

    python examples/live_camera.py lips.edge                  # camera 0
    python examples/live_camera.py lips.edge film.mp4 --region 80,168,160,112

Frames are cut to the region, made as large as the student's and pushed with their times, as the importer does it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmkd_edge import EdgePredictor, ModalitySpec
from mmkd_edge.frames import Region, cut_out


def frames(source: str, region: Region | None, modality: ModalitySpec) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds and frames (H, W, C) as the student takes them: the film's own times, a camera's by the clock."""
    import cv2

    is_film = Path(source).is_file()
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise SystemExit(f"{source}: expected a film or a camera, got none; name a file, or plug one in")
    number = 0
    while True:
        came, frame = capture.read()
        if not came:
            return
        when = number / capture.get(cv2.CAP_PROP_FPS) if is_film else time.monotonic()
        number += 1
        _, height, width, channels = modality.shape
        yield when, cut_out(frame, region, height=height, width=width, is_gray=channels == 1)


def main() -> None:
    """Push every frame, and print every answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("source", nargs="?", default="0", help="film, number of a camera, or a GStreamer string")
    parser.add_argument("--region", type=lambda text: tuple(map(int, text.split(","))), help="x,y,width,height")
    options = parser.parse_args()
    with EdgePredictor.open(options.bundle) as predictor:
        modality = predictor.modality
        stream = predictor.stream(hop=max(1, modality.samples // 2))
        for when, frame in frames(options.source, options.region, modality):
            for answer in stream.push(frame[None], time_s=np.array([when])):
                print(f"{when:9.2f} s  {answer.label or '-':<12} {answer.probability or 0:.2f}  {answer.status}")


if __name__ == "__main__":
    main()
