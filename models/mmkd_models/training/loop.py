"""One training loop for teacher, baseline and student.

A learner maps (batch, progress) to loss terms, their sum under "loss"; progress is the fraction of the training done.
All randomness follows from (seed, step).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmkd_edge.errors import CheckpointError, UsageError
from mmkd_edge.system import silence_reports
from mmkd_models.data.batches import Batch
from mmkd_models.metrics.scores import AnyScores, scores_from_document
from mmkd_models.tensors import read_tensors, same_tensors, write_tensors
from mmkd_models.train_config import OnStep, TrainConfig, TrainingProgress, Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # pragma: no cover

logger = logging.getLogger(__name__)

RESUME_FILE = "resume.ckpt"  # of an interrupted training
_WARMUP = 0.1  # of the training
_WEIGHT_DECAY = 0.05  # of AdamW, on matrices only
_CLIP_NORM = 1.0


class _ResumeFacts(msgspec.Struct, frozen=True, kw_only=True):
    format_version: Literal[2]
    config: dict[str, Any]  # all that decides the result
    step: int
    param_groups: list[dict[str, Any]]  # of the optimiser, as PyTorch returns them
    best_step: int
    best_scores: dict[str, Any]
    top: tuple[float, float]  # best score, and its standard error
    curve: list[Validation]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A finished training: chosen weights (CPU), validation scores, curve, and last step."""

    state: dict[str, Tensor]
    scores: AnyScores
    best_step: int
    curve: tuple[Validation, ...] = ()
    stopped_at: int = 0


def fit(
    learner: nn.Module,
    batch_at: Callable[[int], Batch],
    *,
    evaluate: Callable[[nn.Module], AnyScores],
    config: TrainConfig,
    run_dir: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_step: OnStep | None = None,
) -> Fit:
    """Train `learner.network` in place and return the weights that validated best.

    The same seed, machine and thread count give bit-equal weights, also after resuming. `settings` are whatever else
    decides the result. `run_dir` gets the resume state (every `eval_every` steps) and TensorBoard logs. The first
    process alone calls `on_step`.

    Raises UsageError for impossible numbers, a non-finite loss, or a state of other settings; CheckpointError for a
    damaged one.
    """
    if config.steps < 1 or config.batch < 2 or config.eval_every < 1:
        raise UsageError(
            f"training: expected steps >= 1, batch >= 2 and eval_every >= 1, got {config.steps}, {config.batch} and "
            f"{config.eval_every}; correct them"
        )
    fabric = _fabric(config)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        loop = _Loop(fabric, learner, batch_at, evaluate, config, run_dir, settings or {})
        return loop.run(resume=resume, on_step=on_step)


class _Loop:
    def __init__(
        self,
        fabric: Fabric,
        learner: nn.Module,
        batch_at: Callable[[int], Batch],
        evaluate: Callable[[nn.Module], AnyScores],
        config: TrainConfig,
        run_dir: Path | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.fabric, self.batch_at, self.evaluate = fabric, batch_at, evaluate
        self.config, self.run_dir = config, run_dir
        identity = {**msgspec.structs.asdict(config), **settings}
        self.identity: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(identity))
        self.learner = learner
        self.network: nn.Module = learner.network  # type: ignore[assignment]
        learner.to(fabric.device)
        trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [matrix for matrix in trained if matrix.ndim >= 2], "weight_decay": _WEIGHT_DECAY},
            {"params": [other for other in trained if other.ndim < 2], "weight_decay": 0.0},
        ]
        # Fused, a step of a small network on a CPU takes a fraction of the time.
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        self.wrapped, self.wrapped_optimizer = fabric.setup(learner, self.optimizer)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        # The network changes its tensors in place, so that these stay its own.
        self.current = {k: v.detach() for k, v in self.network.state_dict().items() if v.dtype.is_floating_point}
        self.best: Fit | None = None
        self.top, self.top_error = -math.inf, 0.0
        self.curve: list[Validation] = []
        self.step = 0
        self.sums: dict[str, float] = {}
        self.since = 0

    def run(self, *, resume: bool, on_step: OnStep | None) -> Fit:
        config = self.config
        if resume and self.run_dir is not None:
            self._load(self.run_dir)
        run_dir = self.run_dir if self.fabric.is_global_zero else None
        with _scalar_log(run_dir) as log:
            while self.step < config.steps:
                scores = [point.valid_score for point in self.curve]
                # Equal scores keep the later weights, but they are no progress.
                if scores and 0 < config.patience < len(scores) - scores.index(max(scores)):
                    break
                terms = self._one_step()
                if self.step % config.eval_every == 0 or self.step == config.steps:
                    self._validate()
                    if run_dir is not None:
                        point = self.curve[-1]
                        values = {f"train/{term}": mean for term, mean in point.terms.items()}
                        values |= {"valid/score": point.valid_score, "train/loss": point.train_loss}
                        for name, value in values.items():
                            log.add_scalar(name, value, point.step)
                        self._save(run_dir)
                if on_step is not None and self.fabric.is_global_zero:
                    best = None if self.best is None else self.top
                    progress = TrainingProgress(
                        step=self.step,
                        steps=config.steps,
                        terms=terms,
                        best_score=best,
                        curve=self.curve,
                        folder=self.run_dir,
                    )
                    on_step(progress)
        assert self.best is not None  # a training validates at its last step
        return replace(self.best, curve=tuple(self.curve), stopped_at=self.step)

    def _one_step(self) -> dict[str, float]:
        config = self.config
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 64 + self.fabric.global_rank)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(self.step / config.steps)
        batch, (rank, processes) = self.batch_at(self.step), (self.fabric.global_rank, self.fabric.world_size)
        if processes > 1:
            batch = batch.changed(lambda tensor: tensor[rank::processes])
        if not self.network.training:
            self.wrapped.train()
        terms = self.wrapped(batch.changed(lambda tensor: tensor.to(self.fabric.device)), self.step / config.steps)
        values = {name: float(value.detach()) for name, value in terms.items()}
        self._check_finite("loss", values["loss"])
        self.wrapped_optimizer.zero_grad()
        self.fabric.backward(terms["loss"])
        norm = self.fabric.clip_gradients(
            self.wrapped, self.wrapped_optimizer, max_norm=_CLIP_NORM, error_if_nonfinite=False
        )
        if norm is not None:
            self._check_finite("gradient", float(norm))
        self.wrapped_optimizer.step()
        self.step += 1
        # The ramp lets the average forget the start (as TensorFlow's ExponentialMovingAverage with num_updates does).
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step)) if config.ema_decay > 0 else 0.0
        averages = [self.average[name] for name in self.current]
        get_ema_multi_avg_fn(decay)(averages, list(self.current.values()), self.step)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.since += 1
        return values

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise UsageError(
                f"training: expected a finite {what}, got {value} at step {self.step + 1}; "
                "lower --learning-rate or check the data"
            )

    def _validate(self) -> None:
        raw = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        scores = self.evaluate(self.network)
        self.network.load_state_dict(raw)
        score = scores.metric(self.config.metric)
        means = {name: total / self.since for name, total in self.sums.items()}
        self.curve.append(Validation(step=self.step, train_loss=means.pop("loss"), valid_score=score, terms=means))
        self.sums, self.since = {}, 0
        if score >= self.top:
            self.top, self.top_error = score, scores.standard_error(self.config.metric)
        # The one-standard-error rule (Breiman et al., 1984, section 3.4.3) takes the latest weights that are near.
        if score >= self.top - self.top_error:
            state = {name: value.detach().cpu().clone() for name, value in self.average.items()}
            self.best = Fit(state=state, scores=scores, best_step=self.step)

    def _save(self, run_dir: Path) -> None:
        assert self.best is not None  # a state is saved after a validation
        optimizer = self.optimizer.state_dict()
        facts = _ResumeFacts(
            format_version=2,
            config=self.identity,
            step=self.step,
            param_groups=optimizer["param_groups"],
            best_step=self.best.best_step,
            best_scores=msgspec.to_builtins(self.best.scores),
            top=(self.top, self.top_error),
            curve=self.curve,
        )
        parts = {"learner": self.learner.state_dict(), "average": self.average, "best": self.best.state}
        tensors = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
        for row, moments in optimizer["state"].items():
            tensors |= {f"optimizer/{row}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        write_tensors(run_dir / RESUME_FILE, tensors, kind="resume", document=msgspec.json.encode(facts))

    def _load(self, run_dir: Path) -> None:
        path = run_dir / RESUME_FILE
        if not path.exists():
            return
        tensors, raw = read_tensors(path, kind="resume")
        try:
            facts = msgspec.json.decode(raw, type=_ResumeFacts)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: metadata: {error}; start without --resume") from error
        for key in {**self.identity, **facts.config}:
            if facts.config.get(key) != self.identity.get(key):
                raise UsageError(
                    f"{path}: expected a training with {key}={self.identity.get(key)!r}, got {key}="
                    f"{facts.config.get(key)!r}; use the same options as before, or start without --resume"
                )
        parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "best": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        try:
            for key, tensor in tensors.items():
                part, _, name = key.partition("/")
                if part == "optimizer":
                    row, _, name = name.partition("/")
                    moments.setdefault(int(row), {})[name] = tensor
                else:
                    parts[part][name] = tensor
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: tensor with an unknown name ({error}); start without --resume") from error
        same_tensors(self.learner.state_dict(), parts["learner"], path=path)
        self.learner.load_state_dict(parts["learner"])
        self.optimizer.load_state_dict({"state": moments, "param_groups": facts.param_groups})
        self.average = {name: value.to(self.fabric.device) for name, value in parts["average"].items()}
        scores = scores_from_document(facts.best_scores)
        self.best = Fit(state=parts["best"], scores=scores, best_step=facts.best_step)
        self.top, self.top_error = facts.top
        self.curve, self.step = facts.curve, facts.step
        logger.info("resumed at step %d of %d", self.step, self.config.steps)


def schedule(progress: float) -> float:
    """Return the factor on the peak learning rate."""
    if progress < _WARMUP:
        return max(0.01, progress / _WARMUP)
    done = (progress - _WARMUP) / (1 - _WARMUP)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _fabric(config: TrainConfig) -> Fabric:
    silence_reports()  # Fabric imports torchmetrics, and that ONNX Runtime where librosa is installed too
    from lightning_fabric import Fabric

    # An Apple GPU lacks float64, in which committees answer.
    kind = "cpu" if torch.backends.mps.is_available() else "auto"
    try:
        fabric = Fabric(accelerator=kind, devices=config.devices, precision=config.precision)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"training: expected {config.devices} device(s) that can be used, got: {error}") from error
    if config.devices > 1:
        fabric.launch()
    return fabric


@contextmanager
def _scalar_log(run_dir: Path | None) -> Iterator[Any]:
    if run_dir is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run_dir)) as log:
        yield log
