"""The dataset of ten machines of the training side."""

from tests.models.conftest import machines, one_thread

__all__ = ["machines", "one_thread"]
