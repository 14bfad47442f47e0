"""`/predict`: one window in, one prediction out, as JSON or npy."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from mmkd_edge import EdgePredictor, read_npy
from mmkd_edge.errors import InputError

NPY = "application/x-npy"
# Beside the window itself: brackets, commas and digits of JSON for each value, and a header.
_BYTES_OF_A_VALUE, _BYTES_OF_THE_REST = 32, 4096


def most_body_bytes(predictor: EdgePredictor) -> int:
    """The size of the largest window that a predictor takes, written generously."""
    values = sum(math.prod(entry.modality.shape) for entry in predictor.entries)
    return values * _BYTES_OF_A_VALUE + _BYTES_OF_THE_REST


def answer(predictor: EdgePredictor, body: bytes, content_type: str) -> bytes:
    """A prediction as JSON.

    Args:
        predictor: who answers.
        body: a window: npy of (T, C), JSON of rows, or a JSON object from the modality's name to rows; null is missing.
        content_type: which of them; NPY, else JSON.

    Raises:
        InputError: it is no window, or does not fit.
    """
    window = _npy(body) if content_type.partition(";")[0].strip() == NPY else _json(body)
    return predictor.predict(window).to_json()


def _npy(body: bytes) -> object:
    try:
        return read_npy(body)
    except ValueError as error:
        raise InputError(f"expected an array in the npy format, got something else: {error}") from error


def _json(body: bytes) -> object:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"expected JSON, got something else: {error}") from error
    if isinstance(found, dict):
        return {str(name): None if rows is None else _rows(rows) for name, rows in found.items()}
    return _rows(found)


def _rows(rows: object) -> object:
    try:
        return np.array(rows, dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            "expected rows of numbers, one for each sample, got something else; null is missing"
        ) from error
