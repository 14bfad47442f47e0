"""A committee in a distillation: members that are no network answer each training window once, as it was recorded.

A mixed window is answered by the same mixture of the answers to its two windows, as mixup mixes labels (Zhang et al.,
"mixup", ICLR 2018). Kernels and statistics take many times longer than a transformer, and were never shown mixtures,
noise or gaps of augmentation; the transformer sees what the student sees.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mmkd_models.networks.committee.network import Committee
from mmkd_models.networks.teacher import Inputs, Teacher, TeacherOutput


class FixedViews(nn.Module):
    """A committee that knows the N training windows.

    Args:
        ask: gives (N, K) logits of a member for the training windows; asked once, when a batch comes.
        whole: let transformers, too, answer windows as they were recorded: where windows are not mixed, noise and gaps
            tell a teacher that knows them nothing new. Batches whose taps are wanted are answered as they are.
    """

    def __init__(self, committee: Committee, ask: Callable[[nn.Module], Tensor], *, whole: bool = False) -> None:
        super().__init__()
        self.committee = committee
        self._ask = ask
        self._whole = whole
        self._known: dict[int, Tensor] = {}

    @property
    def first(self) -> Teacher:
        """Gives the first transformer."""
        return self.committee.first

    def forward(
        self, inputs: Inputs, *, index: Tensor, partner: Tensor | None, share: Tensor | None, taps: bool = False
    ) -> TeacherOutput:
        """Answers a batch of windows.

        Args:
            index: (B,) which training window each row is, or is mixed from.
            partner: (B,) which one it is mixed with; None where nothing is mixed.
            share: (B,) of the first of the two.
        """
        if self._whole and not taps:
            return self._recorded(index)
        given: dict[int, Tensor] = {}
        for number in self.committee.fixed:
            known = self._shares_of(number).to(index.device)
            own = known[index]
            if partner is not None and share is not None:
                weight = share[:, None].to(own)
                own = weight * own + (1 - weight) * known[partner]
            given[number] = self.committee.logits_of_shares(own)
        output: TeacherOutput = self.committee(inputs, taps=taps, given=given)
        return output

    def _recorded(self, index: Tensor) -> TeacherOutput:
        """What the committee says of windows as they were recorded; there is no embedding then."""
        whole = -1
        if whole not in self._known:
            self._known[whole] = self._ask(self.committee)
        logits = self._known[whole].to(index.device)[index]
        return TeacherOutput(logits=logits, embedding=logits.new_zeros(len(index), 0))

    def _shares_of(self, number: int) -> Tensor:
        """(N, K) float64 probabilities of the calibrated member, or its numbers."""
        if number not in self._known:
            logits = self._ask(self.committee.members[number])
            self._known[number] = self.committee.shares_of_logits(self.committee.calibrated(number, logits))
        return self._known[number]
