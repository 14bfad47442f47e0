"""Tasks of Label Studio (https://labelstud.io/tags, https://labelstud.io/guide/tasks)."""

from __future__ import annotations

import base64
import io
import math
import tempfile
import wave
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UnavailableError
from mmkd_edge.frames import frame_bytes, opencv
from mmkd_edge.spec import ModalitySpec, TaskSpec

_MOST_POINTS = 2000  # of a channel on the screen


def label_config(modalities: Sequence[ModalitySpec], task: TaskSpec) -> str:
    """Return the labelling interface."""
    rows = ['<Header value="$title"/>']
    for spec in modalities:
        shown = f"name={quoteattr(spec.name)} value={quoteattr(f'$x_{spec.name}')} sync={quoteattr('window')}"
        if spec.kind == "series":
            names = [f"column={quoteattr(name)} displayName={quoteattr(name)}" for name in spec.channels]
            channels = "".join(f"<Channel {name} units={quoteattr(spec.unit)}/>" for name in names)
            rows.append(f'<TimeSeries {shown} valueType="json" timeColumn="time">{channels}</TimeSeries>')
        else:
            rows.append(f"<{spec.kind.title()} {shown}/>")
    asked = f'name="label" toName={quoteattr(modalities[0].name)} required="true"'
    labels = [*task.labels, *(["fault"] if task.kind == "normal" and len(task.labels) == 1 else [])]
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    several = "multiple" if task.kind == "multi_label" else "single"
    question = f'<Choices {asked} choice="{several}">{choices}</Choices>'
    rows.append(f"<Number {asked}/>" if task.kind == "regression" else question)
    return "\n".join(["<View>", *(f"  {row}" for row in rows), "</View>", ""])


def label_task(
    windows: Mapping[str, NDArray[Any]],
    modalities: Sequence[ModalitySpec],
    start_s: float,
    *,
    likely: str,
    probability: float,
    **facts: Any,
) -> dict[str, Any]:
    """Return the task of a window; a likely answer is filled in."""
    length_s = max(spec.duration_s for spec in modalities)
    start, end = (datetime.fromtimestamp(time_s, timezone.utc) for time_s in (start_s, start_s + length_s))
    data = {"title": f"{facts.get('group', '')} {start:%Y-%m-%d %H:%M:%S} UTC", **facts}
    data |= {"start": start.isoformat(timespec="microseconds"), "end": end.isoformat(timespec="microseconds")}
    data |= {f"x_{spec.name}": _signal(windows[spec.name], spec) for spec in modalities}
    answer = {"from_name": "label", "to_name": modalities[0].name, "type": "choices", "value": {"choices": [likely]}}
    prediction = {"model_version": "mmkd-edge", "score": probability, "result": [answer]}
    return {"data": data, "predictions": [prediction] if likely else []}


def _signal(window: NDArray[Any], spec: ModalitySpec) -> Any:
    if spec.kind == "series":
        step = math.ceil(len(window) / _MOST_POINTS)
        columns = {"time": np.arange(0, len(window), step) / spec.rate_hz}
        columns |= {name: window[::step, number] for number, name in enumerate(spec.channels)}
        return {
            name: [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
            for name, values in columns.items()
        }
    if spec.kind == "audio":
        scaled = window if window.dtype == np.int16 else np.nan_to_num(window).clip(-1, 1) * 32767
        sound = io.BytesIO()
        with wave.open(sound, "wb") as file:
            file.setparams((window.shape[1], 2, round(spec.rate_hz), 0, "NONE", ""))
            file.writeframes(scaled.astype("<i2").tobytes())
        return _address("audio/wav", sound.getvalue())
    cv2, frames = opencv("tasks of video need"), frame_bytes(window)
    with tempfile.TemporaryDirectory() as folder:
        path, size = Path(folder) / "window.webm", (frames.shape[2], frames.shape[1])
        file = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), spec.rate_hz, size)
        if not file.isOpened():
            raise UnavailableError(
                f"modality {spec.name!r}: this OpenCV writes no WebM video of {size[0]} x {size[1]} at {spec.rate_hz:g}"
                " Hz; install opencv-python-headless"
            )
        for frame in frames:
            file.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if frame.shape[2] == 1 else cv2.COLOR_RGB2BGR))
        file.release()
        return _address("video/webm", path.read_bytes())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
