"""What a refused call says."""

import pytest

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def said(kind, call, /, *arguments, **options):
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return str(caught.value)
