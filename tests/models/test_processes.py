"""Who started a process: what torchrun and SLURM say in its environment."""

from __future__ import annotations

import pytest

from mmkd_edge.errors import UsageError
from mmkd_models.processes import LaunchedBy, is_first_process, launch_of
from mmkd_models.train_config import TrainConfig
from mmkd_models.training.loop import fit

# As torchrun --nnodes 2 --nproc-per-node 4 sets them for the second process of the second machine.
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "RANK": "5",
    "WORLD_SIZE": "8",
}
# As srun --nodes 2 --ntasks-per-node 4 sets them for the same.
SRUN = {
    "SLURM_JOB_NAME": "train",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_torchrun_and_srun_say_the_same_in_their_own_words() -> None:
    assert launch_of(TORCHRUN) == LaunchedBy(by="torchrun", nodes=2, processes=4, rank=5)
    assert launch_of(SRUN) == LaunchedBy(by="srun", nodes=2, processes=4, rank=5)
    assert launch_of({name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"}) == launch_of(
        SRUN
    )


def test_nothing_has_started_a_process_of_a_shell() -> None:
    assert launch_of({}) is None
    assert launch_of(SRUN | {"SLURM_JOB_NAME": "interactive"}) is None


def test_one_process_of_all_machines_is_the_first() -> None:
    assert not is_first_process(TORCHRUN | {"LOCAL_RANK": "0", "RANK": "4"})
    assert is_first_process(TORCHRUN | {"LOCAL_RANK": "0", "RANK": "0"})
    assert not is_first_process(SRUN | {"SLURM_LOCALID": "0", "SLURM_PROCID": "4"})
    assert is_first_process(SRUN | {"SLURM_LOCALID": "0", "SLURM_PROCID": "0"})
    assert is_first_process({})
    assert not is_first_process({"LOCAL_RANK": "1"})  # Fabric's own


@pytest.mark.parametrize(("environment", "by"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_another_number_of_devices_than_were_started_is_refused(
    environment: dict[str, str], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as error:
        fit(None, None, evaluate=lambda network: None, config=TrainConfig())  # type: ignore[arg-type, return-value]
    assert str(error.value) == (
        f"training: expected --devices 4, as many processes as {by} starts on a machine, got 1; "
        "give the same number to both"
    )
