"""Runs in MLflow. What a server does not take waits in the run's folder for the next command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mmkd_app.cli.options import Option
from mmkd_app.cli.run import shell_line
from mmkd_app.cli.show import json_text, say
from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import MmkdError, UsageError, first_line
from mmkd_edge.machine import require_modules
from mmkd_edge.system import user_name
from mmkd_models.metrics.scores import known_score
from mmkd_models.train_config import TrainingProgress, Validation, is_first_process

if TYPE_CHECKING:
    from mmkd_models.training.checkpoint import Provenance

Mlflow = Annotated[
    str | None,
    Option("Record a run in this MLflow experiment, on MLFLOW_TRACKING_URI.", metavar="EXPERIMENT", shown=False),
]

RUN_FILE = "mlflow.json"
# MLflow's defaults wait for minutes, and report usage.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PAUSE_S = 30.0  # after a server did not answer
_MOST_TEXT = 500  # of a parameter
_TOO_MANY_REQUESTS = 429
_PARAMS = ("dataset", "dataset_sha256", "fold", "labelled", "metric", "training", "augment", "recipe", "teacher_sha256")
_Method = Literal["create_run", "update_run", "log_batch", "log_artifact", "log_text", "set_terminated"]


class _State(msgspec.Struct):
    experiment: str
    checkpoint_sha256: str = ""
    ids: dict[str, str] = {}  # by title; empty before the server made the run
    steps: dict[str, int] = {}  # last one recorded of each training
    waiting: list[tuple[_Method, str, dict[str, Any]]] = []


class Tracker:
    """A run with its nested runs; without an experiment it records nothing."""

    def __init__(self, experiment: str | None, folder: Path, *, title: str, of: Path | None, resume: bool) -> None:
        self._folder, self._title, self._pause_ends_s, self._has_warned = folder, title, 0.0, False
        self._client: Any = None if experiment is None or not is_first_process() else _new_client()
        self._state = _State(experiment or "")
        if self._client and resume and (folder / RUN_FILE).exists():
            stored = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=_State)
            if stored.experiment == experiment and (of is None or stored.checkpoint_sha256 == _sha256(of)):
                self._state = stored
        if not self.begin(title):
            self.add("update_run", status="RUNNING")
        self.record(tags={"mlflow.source.name": shell_line(Path(sys.argv[0]).name, *sys.argv[1:])})

    def add(self, method: _Method, run: str = "", **values: Any) -> None:
        """Call MLflow's client, now or when the server answers."""
        if self._client:
            self._state.waiting.append((method, run or self._title, values))
            self.send()

    def begin(self, title: str) -> bool:
        """Begin a run; return False if there is one of this title."""
        if not self._client or title in self._state.ids:
            return False
        self._state.ids[title] = ""
        self.add("create_run", title, run_name=title, start_time=_now_ms())
        return True

    def record(
        self,
        *,
        run: str = "",
        params: object = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record parameters, final metrics and tags."""
        rows = [(name, float(value), _now_ms(), 0) for name, value in (metrics or {}).items() if value is not None]
        pairs = list(_parts("", msgspec.to_builtins(params)))
        self.add("log_batch", run, params=pairs, metrics=rows, tags=list((tags or {}).items()))

    def record_curve(self, curve: Sequence[Validation], training: str = "", *, run: str = "") -> None:
        """Record new validations."""
        done, rows = self._state.steps.get(run + training, 0), []
        for point in (point for point in curve if point.step > done):
            values = {f"train/{term}": mean for term, mean in point.terms.items()}
            values |= {"valid/score": point.valid_score, "train/loss": point.train_loss}
            rows += [(training + name, value, _now_ms(), point.step) for name, value in values.items()]
            self._state.steps[run + training] = point.step
        if rows:
            self.add("log_batch", run, metrics=rows)

    def on_step(self, progress: TrainingProgress) -> None:
        """Record new validations, named by the training's folder."""
        parts = () if progress.folder is None else progress.folder.relative_to(self._folder).parts
        self.record_curve(progress.curve, "".join(f"{part}/" for part in parts))

    def record_checkpoint(self, path: Path, facts: Provenance, config: msgspec.Struct) -> None:
        """Record a training's result."""
        if self._client:
            self._state.checkpoint_sha256 = _sha256(path)
            params = {name: value for name, value in msgspec.to_builtins(facts).items() if name in _PARAMS}
            metrics = {facts.metric: known_score(facts.metric, facts.score), "best_step": facts.best_step}
            self.record(params=params | {"network": config}, metrics=metrics)
            self.record_file(path)

    def record_file(self, path: Path, folder: str | None = None) -> None:
        """Record a file."""
        self.add("log_artifact", local_path=str(path.absolute()), artifact_path=folder)

    def send(self, *, is_last: bool = False) -> None:
        """Make the waiting calls, and store the rest."""
        from mlflow.exceptions import MlflowException

        waiting = self._state.waiting
        while waiting and (is_last or time.monotonic() >= self._pause_ends_s):
            try:
                self._call(*waiting[0])
            except (MlflowException, OSError) as error:
                status = int(getattr(error, "get_http_status_code", int)())  # mlflow has no types
                is_refused = 400 <= status < 500 and status != _TOO_MANY_REQUESTS
                if not self._has_warned:
                    say(f"--mlflow: {first_line(error)}; the command goes on, and sends what is missing later")
                    self._has_warned = True
                if not (is_refused or isinstance(error, FileNotFoundError)):
                    self._pause_ends_s = time.monotonic() + _PAUSE_S
                    break
            waiting.pop(0)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_file(self._folder / RUN_FILE, msgspec.json.encode(self._state))
        if is_last and waiting:
            say(f"--mlflow: {len(waiting)} calls wait in {self._folder / RUN_FILE}; the next command sends them")

    def _call(self, method: _Method, run: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id, client, kinds = self._state.ids[run], self._client, {"metrics": Metric, "params": Param, "tags": RunTag}
        if method == "create_run":
            tags = {"mlflow.user": user_name(), "mlflow.source.type": "LOCAL"}
            tags |= {} if run == self._title else {"mlflow.parentRunId": self._state.ids[self._title]}
            known, name = client.get_experiment_by_name(self._state.experiment), self._state.experiment
            number = known.experiment_id if known else client.create_experiment(name)
            self._state.ids[run] = client.create_run(number, tags=tags, **values).info.run_id
        elif run_id:
            if method == "log_batch":
                values = {name: [kinds[name](*row) for row in rows] for name, rows in values.items()}
            getattr(client, method)(run_id, **values)


@contextmanager
def tracked(
    experiment: str | None, folder: Path, *, title: str, of: Path | None = None, resume: bool = False
) -> Iterator[Tracker]:
    """Yield a tracker; the run of the checkpoint `of` continues."""
    tracker, status = Tracker(experiment, folder, title=title, of=of, resume=resume), "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except MmkdError as error:
        tracker.record(tags={"error": str(error)})
        raise
    finally:
        tracker.add("set_terminated", status=status, end_time=_now_ms())
        if experiment is not None and is_first_process():
            tracker.send(is_last=True)


def _new_client() -> Any:
    require_modules(("mlflow",), by="--mlflow", extra="mlflow")
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient()
    except (MlflowException, ImportError, OSError) as error:
        raise UsageError(
            "--mlflow: expected the address of a server in MLFLOW_TRACKING_URI, such as http://HOST:5000, got "
            f"{os.environ.get('MLFLOW_TRACKING_URI', 'none')}: {first_line(error)}"
        ) from error


def _parts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _parts(f"{name}.{key}" if name else key, part)
    elif value is not None:
        yield name, (value if isinstance(value, str) else json_text(value))[:_MOST_TEXT]


def _sha256(path: Path) -> str:
    from mmkd_models.training.checkpoint import file_sha256

    return file_sha256(path)


def _now_ms() -> int:
    return round(time.time() * 1000)
