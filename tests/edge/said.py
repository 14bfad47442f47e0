"""What a refused call says."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def said(kind: type[BaseException], call: Callable[[], object]) -> str:
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)
