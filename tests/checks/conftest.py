"""A small real bundle, and the dataset of ten machines of the training side."""

from pathlib import Path

import pytest

from tests.models.conftest import machines, one_thread

__all__ = ["machines", "one_thread"]
FILES = Path(__file__).parents[1] / "files"


@pytest.fixture(scope="session")
def bundle():
    return FILES / "student.edge"
