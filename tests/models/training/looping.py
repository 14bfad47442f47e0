"""What tests of trainings share: judges that follow a script, interruptions, equal weights, and altered files."""

import json

import torch
from safetensors import safe_open

from mmkd_models.metrics.scores import Scores
from mmkd_models.tensors import write_tensors


def scripted(figures, seen=None):
    """A judge that gives these figures one after the other, and remembers the weights it was shown."""
    left = iter(figures)

    def evaluate(network):
        if seen is not None:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
        figure = next(left)
        return Scores(accuracy=figure, balanced_accuracy=figure, macro_f1=figure, confusion=((1,),))

    return evaluate


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


class Interrupted(Exception):  # noqa: N818 - not an error of the code under test
    pass


def interrupt_at(step):
    def on_step(progress):
        if progress.step == step:
            raise Interrupted

    return on_step


def rewrite(path, *, kind, document=lambda document: None, tensors=lambda tensors: None):
    """Writes the file again, its JSON document or its tensors changed in place, with the hash of what it then says."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = json.loads(file.metadata()[kind])
    document(found)
    tensors(parts)
    write_tensors(path, parts, kind=kind, document=json.dumps(found).encode())
