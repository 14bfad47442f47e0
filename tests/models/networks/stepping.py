"""What a causal student answers where it is asked step by step, as a device asks it."""

import torch

from mmkd_models.networks.step import StepStudent, causal_encoder, embeddings_along


def stepped(network, values, present):
    """(1, N, K) logits, one block of samples after the other."""
    step, encoder = StepStudent(network).eval(), causal_encoder(network)
    state, found = step.start(), []
    values, present = encoder.padded(values), encoder.padded(present)
    for number in range(values.shape[1] // encoder.stride):
        block = slice(number * encoder.stride, (number + 1) * encoder.stride)
        slot = torch.full((1, 1), float(number % encoder.length))
        with torch.no_grad():
            logits, _, *new = step(values[:, block], present[:, block], slot, *state)
        state = step.kept(state, new, number)
        found.append(logits)
    return torch.stack(found, dim=1)


@torch.no_grad()
def answers_along(network, values, present):
    """(B, N, K) logits after each block of a whole recording, in one pass."""
    return network.head(embeddings_along(network, values, present))
