"""`mmkd-bench frames`: a film beside a camera's student, arguments in, sheet or document out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmkd_bench.commands.options import BackendOption, BundleArgument, DurationOption, Form, FormOption, JsonOption
from mmkd_bench.commands.printing import print_measured
from mmkd_bench.frames import measure_frames
from mmkd_bench.show.frames import frames_sheet
from mmkd_edge.cli.show import say
from mmkd_edge.errors import UsageError
from mmkd_edge.frames import region_in


def frames(
    bundle: BundleArgument,
    film: Annotated[Path, typer.Argument(metavar="FILM", help="A recording of the camera.")],
    *,
    region: Annotated[
        str | None,
        typer.Option(metavar="X,Y,WIDTH,HEIGHT", help="What is kept of its frames, in pixels.", show_default="all"),
    ] = None,
    backend: BackendOption = "auto",
    duration_s: DurationOption = 6.0,
    form: FormOption = Form.table,
    json: JsonOption = False,
) -> None:
    """Time decoding and scaling the frames of a film apart, beside the student that sees them."""
    box = None if region is None else region_in(region)
    if region is not None and box is None:
        raise UsageError(f"--region: expected X,Y,WIDTH,HEIGHT in pixels, got {region!r}; write it so")
    print_measured(
        lambda: measure_frames(bundle, film, region=box, backend=backend, duration_s=duration_s, progress=say),
        form=form,
        json=json,
        sheet=frames_sheet,
    )
