"""What a source is, and what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.errors import UsageError
from mmkd_station.channels import Columns
from mmkd_station.intake import Delivery, Listener

SourceTimeUnit = Literal["s", "ms", "us", "ns"]
SECONDS: dict[SourceTimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a source.

    Attributes:
        columns: to give, in their order.
        rate_hz: at which samples are expected.
        time_column: where the time of a sample is; a source without it gives none.
        time_unit: of numbers in it; texts are ISO 8601.
        follow: whether a file that ends is waited for.
        replay_speed: of recordings and files, in times their own; None is as fast as they are taken.
        frame: (H, W, C) of a frame of video; None of anything else.
    """

    columns: Columns
    rate_hz: float
    time_column: str = "time"
    time_unit: SourceTimeUnit = "s"
    follow: bool = False
    replay_speed: float | None = None
    frame: tuple[int, int, int] | None = None


class Source(Protocol):
    """Gives samples until it ends, or until it is told to stop.

    Attributes:
        live: whether its samples are of now, so that silence means something.
    """

    @property
    def live(self) -> bool:
        """Whether its samples are of now."""
        ...

    def deliveries(self, listener: Listener) -> Iterator[Delivery]:
        """The samples as they come. What fails on the way is told to the listener, and tried again."""
        ...

    def close(self) -> None:
        """Give back what it holds; more than once is fine."""
        ...


class ReplayedRecording(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One recording to be replayed.

    Attributes:
        rows: float32 (n, C) in the modality's unit, the channels in its order.
        name: of the recording, for people.
        label: what it is of; empty where nobody knows.
        group: the machine, person or session it is from.
        split: of the dataset: train, valid or test.
    """

    rows: NDArray[np.float32]
    name: str
    label: str = ""
    group: str = ""
    split: str = ""


def missing_columns(where: str, columns: Columns, found: list[str]) -> UsageError:
    """The error of a source that lacks a column."""
    lacking = [name for name in columns.names if name not in found]
    return UsageError(
        f"{where}: expected the columns {', '.join(columns.names)}, found no {', '.join(lacking)} among "
        f"{', '.join(found) or 'none'}; say which is which with --map CHANNEL=COLUMN"
    )
