"""Whether the encoder of a sensor that comes is better where it learns from windows without labels first.

    python benchmarks/proofs/new_encoder.py mydata:gyro other:eda --labels 5 --results build/new_encoder

The old and the new domain are those of `adaptation_growth.py sensor`: a tiny transformer knows the old one without the
sensor, and another one starts with its weights (`mmkd-train teacher --start`) and learns the new one with all sensors.
What differs is the new sensor's encoder. Before any label, on all windows of the new domain that teach, what the old
teacher knows standing still, it learns

- fresh: nothing;
- old sensors: to embed a window where the old teacher embeds the window's other sensors (Y. Aytar, C. Vondrick, A.
  Torralba, "SoundNet", NeurIPS 2016: what one sensor knows teaches another one, without labels);
- hidden spans: to tell, together with the others, what stood where spans and sensors are hidden (`pretraining.py`).

With `--labels` so many labels of each class are seen afterwards, in place of all. Balanced accuracy in per cent on the
windows that validate and on those that nobody sees, old ones without the new sensor. Each case is one file in the
results folder, and is not repeated.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd_edge.bundle.files import write_file
from mmkd_models.adapt.domains import few_labels
from mmkd_models.data.batches import Batch, BatchSource
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labels import hide_labels
from mmkd_models.data.windows import Windows
from mmkd_models.defaults import AUGMENT, TEACHER_TRAIN
from mmkd_models.networks.config import teacher_config
from mmkd_models.networks.inherit import take_teacher
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import TeacherCheckpoint
from mmkd_models.training.inputs import TeacherStart, TrainingRun
from mmkd_models.training.loop import fit
from mmkd_models.training.normalisation import set_normalisation
from mmkd_models.training.predict import scores_of
from mmkd_models.training.trainings import train_teacher
from proofs.adaptation_growth import domains_of, teacher_says, training_of
from proofs.gains import balanced_accuracy
from proofs.pretraining import PretrainLearner
from proofs.script import head, parser_of, row

WAYS = ("fresh", "old sensors", "hidden spans")


class EncoderFound(msgspec.Struct, frozen=True, kw_only=True):
    """One case: by way, balanced accuracy on validating windows, unseen new ones and unseen old ones."""

    dataset: str
    added: str
    labels: int
    steps: int
    scores: dict[str, tuple[float, float, float]]


def main() -> None:
    """Learn the new encoder in each way, and print what that was worth."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", metavar="DIR:ADDED")
    parser.add_argument("--labels", type=int, default=0, help="of each class; default all")
    parser.add_argument("--steps", type=int, default=TEACHER_TRAIN.steps, help="of every training")
    parser.add_argument("--table", action="store_true", help="only the table of what there is")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for text in options.sets:
        path, _, added = text.rpartition(":")
        kept = options.results / f"{Path(path).name}-{added}-{options.labels or 'all'}-{options.steps}.json"
        if not options.table and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, msgspec.json.encode(_case(Path(path), added, options)))
    files = sorted(options.results.glob("*.json"))
    print("\n".join(_table([msgspec.json.decode(file.read_bytes(), type=EncoderFound) for file in files])))


def _table(found: Sequence[EncoderFound]) -> list[str]:
    lines = [head("set, sensor that comes", "labels of a class", "steps", "way", "validation", "new", "old", texts=4)]
    for one in found:
        for way, scores in one.scores.items():
            told = [f"{100 * score:.1f}" for score in scores]
            lines.append(row(f"{one.dataset} {one.added}", one.labels or "all", one.steps, way, *told))
    return lines


def _case(path: Path, added: str, options: Namespace) -> EncoderFound:
    windows = open_dataset(path).everything()
    _, old, new = domains_of(windows, 0)
    known = tuple(one.name for one in windows.spec.modalities if one.name != added)
    run = TrainingRun(train=msgspec.structs.replace(TEACHER_TRAIN, steps=options.steps), augment=AUGMENT)
    config = teacher_config("tiny")
    before = training_of({name: one.with_modalities(known) for name, one in old.items()})
    first = train_teacher(before, config, run)
    after = training_of(new)
    if options.labels:
        after = replace(after, train=_few(new["learn"], options.labels))
    scores = {}
    for way in WAYS:
        start = first if way == "fresh" else _pretrained(way, first, new["learn"], added, run)
        found = train_teacher(after, config, run, start=TeacherStart(checkpoint=start, sha256=way))
        valid = scores_of(found.network(), after.valid, modality=None).metric("balanced_accuracy")
        said = [
            balanced_accuracy(part["unseen"].labels.tolist(), teacher_says(found, part["unseen"], lacks))
            for part, lacks in ((new, ""), (old, added))
        ]
        scores[way] = (valid, said[0], said[1])
        print(way, [f"{100 * one:.1f}" for one in scores[way]], flush=True)
    return EncoderFound(
        dataset=windows.spec.name, added=added, labels=options.labels, steps=options.steps, scores=scores
    )


def _few(windows: Windows, count: int) -> Windows:
    """The windows with so many labels of each class, the other windows without."""
    shown = np.isin(np.arange(len(windows)), few_labels(windows, count, seed=0))
    return replace(windows, labels=hide_labels(windows.labels, shown))


def _pretrained(
    way: str, first: TeacherCheckpoint, windows: Windows, added: str, run: TrainingRun
) -> TeacherCheckpoint:
    """A teacher of all sensors whose new encoder has learnt from windows, and all that the first one has is its own."""
    torch.manual_seed(0)
    network = Teacher(windows.spec.modalities, len(first.task.labels), first.config, kind=first.task.kind)
    set_normalisation(network, windows)
    take_teacher(network, first.transformer())
    own = set(first.state)
    for name, value in network.named_parameters():
        value.requires_grad_(name not in own)
    learner = SeeingLearner(network, added) if way == "old sensors" else PretrainLearner(network, ("hidden",))
    source = BatchSource(
        windows, msgspec.structs.replace(AUGMENT, mixup=0.0), batch=run.train.batch, labelled_share=0.0, seed=0
    )
    everything = msgspec.structs.replace(run.train, near_best=1e9)  # of any weights the last are kept
    found = fit(learner, source, evaluate=lambda one: scores_of(one, windows, modality=None), config=everything)
    return replace(first, modalities=windows.spec.modalities, state=found.state)


class SeeingLearner(nn.Module):
    """Embeds a window of the new sensor where the mean of the others' embeddings lies; no label is read."""

    def __init__(self, network: Teacher, added: str) -> None:
        super().__init__()
        self.network, self.added = network, added

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Gives the loss: one less the cosine of the two embeddings, over windows that have all sensors."""
        own = self._embedded(batch, self.added)
        with torch.no_grad():
            others = [self._embedded(batch, name) for name in self.network.names if name != self.added]
            wanted = torch.stack(others).mean(0)
        there = torch.stack([(present > 0).flatten(1).any(1) for _, present in batch.inputs.values()]).all(0)
        apart = 1 - F.cosine_similarity(own[there], wanted[there], dim=-1)
        return {"loss": apart.sum() / there.sum().clamp(min=1)}

    def _embedded(self, batch: Batch, name: str) -> Tensor:
        tokens = self.network.encoders[name](*batch.inputs[name])
        found: Tensor = self.network.pools[name](tokens.values, tokens.bias)
        return found


if __name__ == "__main__":
    main()
