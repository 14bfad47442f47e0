"""The students and the settings of the tests of the runtime."""

import pytest

from mmkd_app.commands.run import run_mmkd
from tests.edge.conftest import _cache_of_one_test, acc, bundle_path, kit, openvino_absent, trt_absent, verdicts
from tests.station.rig import command

__all__ = ["_cache_of_one_test", "acc", "bundle_path", "kit", "openvino_absent", "trt_absent", "verdicts"]


@pytest.fixture
def run_here(capsys):
    """Runs `mmkd-run` in this process until its sources end; returns its output and errors, without its log."""

    def run(*arguments):
        with pytest.raises(SystemExit, match="0"):
            run_mmkd(command(*arguments)[3:])
        return capsys.readouterr()

    return run
