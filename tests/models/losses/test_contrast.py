"""The contrastive loss, and what holds for every term."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.contrast import ContrastHead, crd_loss
from mmkd_models.losses.task import soft_cross_entropy
from mmkd_models.losses.term import common_time, mean_over_tokens, resampled, weighted_mean

TAU = 0.5


def units(count, width, seed):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain_anchor(anchor, positive, negatives):
    """-log h(positive) - sum log(1 - h(negative)), h = e / (e + N), e = exp(dot / tau) / mean of the negatives'."""

    def score(other):
        return math.exp(sum(a * o for a, o in zip(anchor, other, strict=True)) / TAU)

    count = len(negatives)
    mean = sum(score(n) for n in negatives) / count if count else 1.0
    h = [score(v) / mean / (score(v) / mean + max(count, 1)) for v in (positive, *negatives)]
    return -math.log(h[0]) - sum(math.log(1 - h_negative) for h_negative in h[1:])


def plain_crd(student, teacher, index, memory):
    s, t, rows = student.tolist(), teacher.tolist(), index.tolist()
    old_s, old_t, old_rows = (part.tolist() for part in memory) if memory else ([], [], [])
    total = 0.0
    for b, row in enumerate(rows):
        of_teacher = [v for v, r in zip(t + old_t, rows + old_rows, strict=True) if r != row]
        of_student = [v for v, r in zip(s + old_s, rows + old_rows, strict=True) if r != row]
        total += plain_anchor(s[b], t[b], of_teacher) + plain_anchor(t[b], s[b], of_student)
    return total / len(rows)


@pytest.mark.parametrize(
    ("rows", "memory"),
    [(range(4), None), ([5, 7, 5, 9], (units(6, 3, 2), units(6, 3, 3), torch.tensor([1, 5, 2, 9, 9, 3])))],
    ids=["batch", "memory and repeated windows"],
)
def test_it_equals_a_plain_loop(rows, memory):
    student, teacher, index = units(4, 3, 0), units(4, 3, 1), torch.tensor(rows)
    old = dict(zip(("memory_student", "memory_teacher", "memory_index"), memory or (), strict=False))
    loss = crd_loss(student, teacher, temperature=TAU, index=index, **old).item()
    assert loss == pytest.approx(plain_crd(student, teacher, index, memory), rel=1e-5)  # float32 against float64


def test_two_perfect_orthogonal_pairs_have_a_closed_form():
    # N = 1 and the negative scores exp(0) = 1, so h(positive) = sigmoid(1 / tau), h(negative) = 1 / 2, two anchors.
    pair = torch.eye(2)
    expected = 2 * (math.log(1 + math.exp(-1 / TAU)) + math.log(2))
    assert crd_loss(pair, pair, temperature=TAU, index=torch.arange(2)).item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 100), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_swapping_or_rotating_or_reordering_changes_nothing(seed, batch):
    student, teacher, index = units(batch, 4, seed), units(batch, 4, seed + 1), torch.arange(batch)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))[0]
    order = torch.arange(batch).flip(0)
    loss = crd_loss(student, teacher, temperature=TAU, index=index).item()
    for s, t, i in (
        (teacher, student, index),
        (student @ rotation, teacher @ rotation, index),
        (student[order], teacher[order], index[order]),
    ):
        # Scores of order 1 / tau = 2 in float32, sums of a few.
        assert crd_loss(s, t, temperature=TAU, index=i).item() == pytest.approx(loss, abs=1e-4)


def test_the_gradient_pulls_pairs_together_and_sees_the_mean_score_as_a_constant():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    teacher = F.normalize(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), dim=-1)
    crd_loss(student, teacher, temperature=TAU, index=torch.arange(2)).backward()
    step = -student.grad[0]
    assert step @ teacher[0] > 0
    assert step @ teacher[1] < 0
    # Two perfect orthogonal pairs as above. Each score g moves the loss by h - 1 (positive) or h (negative), over tau
    # and B = 2; s_0 is the anchor and the positive of t_0, and a negative beside t_1 in both directions.
    student, teacher = torch.eye(2, requires_grad=True), torch.eye(2)
    crd_loss(student, teacher, temperature=TAU, index=torch.arange(2)).backward()
    h_positive, h_negative = 1 / (1 + math.exp(-1 / TAU)), 1 / 2
    expected = (2 * (h_positive - 1) * teacher[0] + 2 * h_negative * teacher[1]) / TAU / 2
    torch.testing.assert_close(student.grad[0], expected)


def test_a_window_is_no_negative_of_itself_and_a_lone_one_has_its_positive():
    student, teacher = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.6, 0.8]])
    loss = crd_loss(student, teacher, temperature=TAU, index=torch.tensor([3]))
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-0.6 / TAU)), rel=1e-6)
    assert bool(student.grad.isfinite().all())
    student, teacher, same = units(3, 4, 0), units(3, 4, 1), torch.tensor([2, 2, 2])
    single = [
        crd_loss(student[i : i + 1], teacher[i : i + 1], temperature=TAU, index=same[:1]).item() for i in range(3)
    ]
    loss = crd_loss(student, teacher, temperature=TAU, index=same).item()
    assert loss == pytest.approx(sum(single) / 3, rel=1e-5)


def head(queue):
    torch.manual_seed(0)
    return ContrastHead(5, 6, width=4, queue=queue)


def embeddings(seed, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 5, generator=generator), torch.randn(batch, 6, generator=generator)


def projected(module, student, teacher):
    return F.normalize(module.student(student), dim=-1), F.normalize(module.teacher(teacher), dim=-1)


def test_the_queue_keeps_the_newest_rows_as_negatives_of_the_next_batch():
    module = head(4)
    batches = [(embeddings(seed), torch.arange(3) + 10 * seed) for seed in range(2)]
    for (student, teacher), index in batches:
        module(student, teacher, index, temperature=TAU)
    assert module.queue_index.tolist() == [10, 11, 12, 0]
    newest = projected(module, *batches[1][0])
    torch.testing.assert_close(module.queue_student[:3], newest[0])
    torch.testing.assert_close(module.queue_teacher[:3], newest[1])
    assert not module.queue_student.requires_grad
    module = head(8)
    first, second = embeddings(0), embeddings(1)
    module(*first, torch.arange(3), temperature=TAU)
    old = projected(module, *first)
    index = torch.tensor([1, 8, 9])  # window 1 is in the queue: no negative of itself
    expected = plain_crd(*projected(module, *second), index, (*old, torch.arange(3)))
    assert module(*second, index, temperature=TAU).item() == pytest.approx(expected, rel=1e-4)


def test_projectors_learn_and_the_teachers_embedding_gets_no_gradient():
    module = head(4)
    student, teacher = (tensor.requires_grad_() for tensor in embeddings(0))
    module(student, teacher, torch.arange(3), temperature=TAU).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert all(parameter.grad is not None for parameter in module.parameters())


def rows(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, classes, generator=generator), torch.rand(batch, classes, generator=generator).softmax(1)


def test_cross_entropy_equals_a_plain_loop():
    logits, targets = rows(4, 3, 0)
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        for value, share in zip(row, target, strict=True):
            total -= share * math.log(math.exp(value) / sum(math.exp(v) for v in row))
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(total / 4, rel=1e-5)  # float32 against float64


@pytest.mark.parametrize("classes", [2, 5])
def test_the_gradient_is_probability_minus_target(classes):
    logits, targets = rows(1, classes, 3)
    logits.requires_grad_()
    soft_cross_entropy(logits, targets).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - targets, atol=1e-6, rtol=1e-5)


def test_rows_without_labels_or_weight_do_not_count():
    logits, targets = rows(3, 4, 0)
    targets = targets * torch.tensor([[1.0], [0.0], [1.0]])
    labelled = torch.tensor([1.0, 0.0, 1.0])
    expected = soft_cross_entropy(logits[[0, 2]], targets[[0, 2]]).item()
    assert soft_cross_entropy(logits, targets, weight=labelled).item() == pytest.approx(expected, rel=1e-6)
    logits = rows(3, 4, 0)[0].requires_grad_()
    loss = soft_cross_entropy(logits, torch.zeros(3, 4), weight=torch.zeros(3))
    loss.backward()
    assert loss.item() == 0.0
    assert not bool(logits.grad.any())
    assert weighted_mean(torch.tensor([7.0, 1e30]), torch.tensor([1.0, 0.0])).item() == 7.0
    values = torch.tensor([3.0, 5.0], requires_grad=True)
    mean = weighted_mean(values, torch.zeros(2))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad.tolist() == [0.0, 0.0]


def test_tokens_are_averaged_in_their_window_and_windows_without_tokens_left_out():
    tokens = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0], [100.0, 100.0, 100.0]])
    valid = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean_over_tokens(tokens, valid, None).item() == (2.0 + 5.0) / 2
    assert mean_over_tokens(tokens, valid, torch.tensor([3.0, 1.0, 9.0])).item() == (3 * 2.0 + 5.0) / 4
    assert mean_over_tokens(tokens, None, torch.tensor([0.0, 0.0, 2.0])).item() == 100.0


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_common_time_equals_exact_fractions(source, target):
    common = common_time(source, target)
    for i in range(source):
        for j in range(target):
            start = max(Fraction(i, source), Fraction(j, target))
            stop = min(Fraction(i + 1, source), Fraction(j + 1, target))
            assert common[i, j].item() == float(max(stop - start, Fraction(0)) * source * target)


def test_half_as_many_tokens_are_means_of_pairs_and_missing_time_is_missing():
    values = tokens(2, 6, 3)
    found, kept = resampled(values, torch.ones(2, 6), length=2)
    expected = torch.stack([(values[:, 0] + values[:, 1]) / 2, (values[:, 2] + values[:, 3]) / 2], dim=1)
    torch.testing.assert_close(found, torch.cat([expected, values[:, 4:]], dim=1))
    assert kept.tolist() == [[1.0] * 4] * 2
    found, kept = resampled(tokens(1, 6, 2), torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0]]), length=2)
    assert kept.tolist() == [[1.0, 0.0, 1.0, 1.0]]
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("length", [1, 3, 8])
def test_missing_tokens_are_no_part_of_a_mean(length):
    values, valid = torch.full((1, 6, 2), 4.0), torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    values[:, 1] = 1e6
    found, kept = resampled(values, valid, length=length)
    assert bool(((found[:, :-1] - 4.0).abs() * kept[:, :-1, None] < 1e-5).all())
    assert kept[0, -1] == 0.0
