"""What a refused call says."""

import pytest


def said(kind, call, /, *arguments, **options):
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return str(caught.value)
