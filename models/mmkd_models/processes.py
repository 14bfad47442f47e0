"""Which of the processes that share a training this one is: started by torchrun, by srun, or by Lightning Fabric.

Reads the environment alone, without torch, by the names that torchrun (torch.distributed.run, "Environment Variables")
and SLURM (srun, "OUTPUT ENVIRONMENT VARIABLES") document.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# A job of these names is a shell in which people start processes by hand: Fabric takes it so.
_SHELLS = ("bash", "interactive")


@dataclass(frozen=True, kw_only=True)
class LaunchedBy:
    """What has started this process beside others.

    Attributes:
        nodes: machines.
        processes: on each of them.
        rank: of this process among all.
    """

    by: Literal["torchrun", "srun"]
    nodes: int
    processes: int
    rank: int


def launch_of(environment: Mapping[str, str]) -> LaunchedBy | None:
    """What a launcher says of this process; None where none has started it."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return LaunchedBy(
            by="torchrun",
            nodes=int(environment.get("GROUP_WORLD_SIZE", "1")),
            processes=int(environment.get("LOCAL_WORLD_SIZE", "1")),
            rank=int(environment.get("RANK", "0")),
        )
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in _SHELLS:
        nodes = int(environment.get("SLURM_NNODES", "1"))
        each = int(environment["SLURM_NTASKS"]) // nodes
        return LaunchedBy(
            by="srun",
            nodes=nodes,
            processes=int(environment.get("SLURM_NTASKS_PER_NODE", each)),
            rank=int(environment.get("SLURM_PROCID", "0")),
        )
    return None


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process writes and tells: of several that run the same command, the first of the first machine."""
    launch = launch_of(environment)
    # Without a launcher Fabric starts the other processes, and numbers them.
    return (environment.get("LOCAL_RANK", "0") if launch is None else str(launch.rank)) == "0"
