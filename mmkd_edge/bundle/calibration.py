"""What windows that nobody trained on say of an artifact's answers: a part of the manifest.

Owns its form. What a runtime makes of it is in `mmkd_edge.predict.confidence` and `mmkd_edge.predict.novelty`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_CONFIDENCE_WINDOWS = 1024
MOST_NOVELTY_WINDOWS = 1024

_Error = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Confidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the probabilities of a classifier's artifact are worth: enough for any error level; see `confidence.py`.

    Attributes:
        temperature: what its graph divides the logits by before the softmax.
        true_probabilities: what it gave the true label of each window that calibrated it, rising, rounded down.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0)]
    true_probabilities: Annotated[tuple[_Share, ...], msgspec.Meta(min_length=1, max_length=MOST_CONFIDENCE_WINDOWS)]


class Novelty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the novelty scores of an artifact are worth: enough for a p-value; see `mmkd_edge.predict.novelty`.

    Attributes:
        scores: what it gave validation windows, of lower precision recorded ones, rising.
        max_error: largest difference from the checkpoint's score, as a share of one more than that.
        tolerance: what that may be on a device.
    """

    scores: Annotated[tuple[_Error, ...], msgspec.Meta(min_length=1, max_length=MOST_NOVELTY_WINDOWS)]
    max_error: _Error
    tolerance: _Error
