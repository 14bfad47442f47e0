"""A recipe's terms between two networks: what is compared, what is masked, and what cannot be tied."""

from dataclasses import replace

import msgspec
import pytest
import torch

from mmkd_edge.errors import UsageError
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.contrast import CrdTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm, feature_loss, relation_loss
from mmkd_models.losses.logits import DistTerm, DkdTerm, LogitTerm, dist_loss, dkd_loss
from mmkd_models.losses.task import TaskTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.config import EncoderConfig
from mmkd_models.networks.student import StudentOutput
from tests.edge.said import said
from tests.models.distillation.pairs import ENCODER, batch, student, teacher

WIDE = EncoderConfig(width=12, heads=3, depth=3, most_tokens=8)
ONE = constant(1.0)
RELATION = RelationTerm(weight=ONE, heads=4)
EVERY = (
    TaskTerm(weight=ONE),
    LogitTerm(weight=ONE),
    DkdTerm(weight=ONE),
    DistTerm(weight=ONE),
    EdamTerm(weight=ONE, layers="uniform"),
    RELATION,
    FeatureTerm(weight=ONE, layers=2),
    CrdTerm(weight=ONE, queue=6, width=4),
)


def wide(classes=3, count=2):
    return teacher(count, classes, encoder=WIDE)


def late(*, size=4, classes=3):
    """Whose first tokens have no sample behind them."""
    return batch(size=size, classes=classes, begins=1 / 3)


def learner(*terms, own=None, other=None):
    network = student() if own is None else own
    return DistillLearner(network, wide() if other is None else other, Recipe(terms=terms), modality="acc").eval()


def refusal(*terms, own=None, other=None):
    return said(UsageError, learner, *terms, own=own, other=other)


def outputs(data):
    return student().eval()(*data.inputs["acc"], taps=True), wide()(data.inputs, taps=True)


def test_outputs_relations_and_hidden_states_are_compared_by_the_losses_of_their_terms():
    data = msgspec.structs.replace(late(), labelled=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    ours, theirs = outputs(data)
    terms = learner(DkdTerm(weight=ONE, beta=3.0), DistTerm(weight=ONE, beta=0.5))(data, 0.0)
    target = data.targets.argmax(-1)
    target[2] = theirs.logits[2].argmax()  # nobody knows the label: what the teacher takes for it
    expected = dkd_loss(ours.logits, theirs.logits, target, temperature=2.0, alpha=1.0, beta=3.0)
    torch.testing.assert_close(terms["dkd"], expected)
    torch.testing.assert_close(
        terms["dist"], dist_loss(ours.logits, theirs.logits, temperature=1.0, beta=0.5, gamma=1.0)
    )
    data = late()
    ours, theirs = outputs(data)
    term = RelationTerm(weight=ONE, layers=((0, 1), (1, 4)), vectors=("query", "value"), heads=4)
    expected = []
    for own, other in term.layers:
        for kind in term.vectors:
            pair = getattr(ours.projections[own], kind), getattr(theirs.projections["acc"][other], kind)
            expected.append(relation_loss(*pair, heads=4, valid=ours.valid))
    torch.testing.assert_close(learner(term)(data, 0.0)["relation"], torch.stack(expected).mean())
    term = FeatureTerm(weight=ONE, layers=((1, 4),))
    module = learner(term)
    expected = feature_loss(module.heads["feature"][0], ours.hidden[1], theirs.hidden["acc"][4], valid=ours.valid)
    torch.testing.assert_close(module(data, 0.0)["feature"], expected)


@pytest.mark.parametrize("most_tokens", [4, 16, 32])
def test_tokens_of_another_length_are_tied_by_their_time(most_tokens):
    own = student(msgspec.structs.replace(ENCODER, most_tokens=most_tokens))
    terms = learner(EdamTerm(weight=ONE), RELATION, FeatureTerm(weight=ONE), own=own)(late(), 0.0)
    terms["loss"].backward()
    assert all(bool(value.isfinite()) and value.item() > 0 for value in terms.values())


@pytest.mark.parametrize(("size", "classes"), [(1, 3), (4, 2), (1, 2)])
def test_one_window_or_two_classes_are_enough_for_every_term(size, classes):
    module = learner(*EVERY, own=student(classes=classes), other=wide(classes=classes))
    terms = module(late(size=size, classes=classes), 0.0)
    terms["loss"].backward()
    assert {term.__struct_config__.tag for term in EVERY} <= set(terms)
    assert all(bool(value.isfinite()) for value in terms.values())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())
    assert module.network.head.weight.grad.abs().max() > 1e-3  # two classes must not silence the outputs


def test_empty_windows_give_finite_losses_and_gradients():
    nothing = {name: (torch.zeros_like(v), torch.zeros_like(p)) for name, (v, p) in late().inputs.items()}
    module = learner(*EVERY)
    terms = module(msgspec.structs.replace(late(), inputs=nothing), 0.0)
    terms["loss"].backward()
    assert all(bool(value.isfinite()) for value in terms.values())
    assert [terms[kind].item() for kind in ("edam", "relation", "feature")] == [0.0] * 3
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())


def test_every_term_is_computed_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = learner(*EVERY)(late(), 0.0)
    assert {name: value.dtype for name, value in terms.items()} == dict.fromkeys(terms, torch.float32)
    assert all(bool(value.isfinite()) for value in terms.values())


@pytest.mark.parametrize("term", [LogitTerm(weight=ONE), DkdTerm(weight=ONE), DistTerm(weight=ONE)])
def test_other_classes_cannot_be_tied(term):
    assert refusal(term, other=wide(classes=4)) == (
        f"recipe: term {term.name!r}: the student has 3 outputs, the teacher 4; train both on the same classes"
    )


def test_relations_of_widths_without_those_heads_cannot_be_tied():
    assert refusal(RelationTerm(weight=ONE, layers=((1, 4),), heads=8)) == (
        "recipe: term 'relation' cannot compare these networks: relations: expected as many tokens on both sides and "
        "widths that are multiples of 8 heads, got (B, L, D)=(1, 7, 8) of the student and (1, 7, 12) of the teacher"
    )


class Plain(torch.nn.Module):
    """A student of one's own that shows nothing but its outputs and, where told to, its hidden states."""

    def __init__(self, *, shown=0):
        super().__init__()
        self.linear, self.head, self.shown = torch.nn.Linear(80, 5), torch.nn.Linear(5, 3), shown

    def forward(self, values, present, *, taps=False):
        embedding = self.linear((values * present).flatten(1)).tanh()
        hidden = (embedding[:, None].expand(-1, 7, -1),) * self.shown if taps else ()
        return StudentOutput(logits=self.head(embedding), embedding=embedding, hidden=hidden)


def test_a_network_of_ones_own_learns_what_it_can():
    data = late()
    terms = (LogitTerm(weight=ONE), FeatureTerm(weight=ONE), CrdTerm(weight=ONE, width=4))
    module = DistillLearner(Plain(shown=1), wide(), Recipe(terms=terms), modality="acc", example=data.inputs)
    module(data, 0.0)["loss"].backward()
    assert all(p.grad is not None for p in module.network.parameters())


@pytest.mark.parametrize(("shown", "term"), [(0, FeatureTerm(weight=ONE)), (2, RELATION)])
def test_a_network_of_ones_own_that_hides_its_layers_is_told_so(shown, term):
    problem = own_refusal(term, wide(), network=Plain(shown=shown))
    assert "it can compare 0 layers of the student and 5 of the teacher" in problem


class Narrow(torch.nn.Module):
    """A teacher of one's own around one of ours: it changes what that gives."""

    def __init__(self, **changed):
        super().__init__()
        self.network, self.changed = wide(), changed

    def forward(self, inputs, *, taps=False):
        return replace(self.network(inputs, taps=taps), **(self.changed if taps else {}))


def own_refusal(term, other, *, network=None, modality="acc", **options):
    given = {"modality": modality, "example": late().inputs, **options}
    return said(UsageError, DistillLearner, network or student(), other, Recipe(terms=(term,)), **given)


EDAM, LOGIT = EdamTerm(weight=ONE), LogitTerm(weight=ONE)
COMPARED = {
    "expected TeacherOutput.valid of modalities beside 'acc', got none": (EDAM, {"valid": {}}),
    "teacher map: expected 9 keys from sources [7], got 10": (EDAM, {"valid": {"gyro": torch.ones(4, 9)}}),
    "expected as many tokens, or more than the last 2, which sum up the window, got 7 of the student and 1 of the"
    " teacher": (FeatureTerm(weight=ONE), {"hidden": {"acc": (torch.zeros(4, 1, 12),) * 5}}),
}


@pytest.mark.parametrize(("problem", "case"), COMPARED.items())
def test_what_cannot_be_compared_is_refused_before_the_first_step(problem, case):
    term, changed = case
    expected = f"recipe: term {term.name!r} cannot compare these networks: {problem}"
    assert own_refusal(term, Narrow(**changed)) == expected


class Bare(torch.nn.Linear):
    def forward(self, values, present, *, taps=False):
        return super().forward(values.flatten(1))


def test_a_network_of_ones_own_needs_an_example_and_is_told_what_it_must_answer():
    assert own_refusal(LOGIT, wide(), network=Plain(), example=None) == (
        "distillation: networks of your own need example=, the inputs of any batch, to see what they give"
    )
    assert own_refusal(LOGIT, Narrow(), modality="heat") == (
        "modality 'heat': expected one of the example's (acc, gyro, audio); name the student's"
    )
    assert own_refusal(LOGIT, wide(), network=Bare(80, 3)) == (
        "distillation: expected the student to give a StudentOutput, got Tensor; "
        "wrap what it gives in mmkd_models.networks.student.StudentOutput"
    )
