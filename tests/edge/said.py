"""What a refused call says."""

import pytest


def said(kind, call):
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)
