"""Losses on hidden states, relations and attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmkd_models.losses.attention import EPSILON, aligned_map, edam_loss
from mmkd_models.losses.features import feature_loss, relation_loss
from tests.edge.said import said

SAME = nn.Identity()


def vectors(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normalised(row):
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row)
    return [(v - mean) / math.sqrt(variance + 1e-5) for v in row]


def test_it_equals_a_plain_loop():
    student, teacher = vectors(2, 3, 4, seed=0), vectors(2, 3, 4, seed=1) * 7 + 2
    valid = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    total = 0.0
    for b in range(2):
        window, rows = 0.0, 0
        for i in range(3):
            if valid[b, i]:
                rows += 1
                target = normalised(teacher[b, i].tolist())
                window += sum((s - t) ** 2 for s, t in zip(student[b, i].tolist(), target, strict=True)) / 4
        total += window / rows
    assert feature_loss(SAME, student, teacher, valid=valid).item() == pytest.approx(total / 2, rel=1e-5)


def test_a_student_that_says_nothing_costs_one_and_the_projector_learns_without_the_teacher():
    # Normalised rows have mean square 1, up to the 1e-5 that layer normalisation adds to the variance.
    assert feature_loss(SAME, torch.zeros(3, 5, 16), vectors(3, 5, 16, seed=0) * 40).item() == pytest.approx(
        1.0, rel=1e-4
    )
    student, teacher = vectors(2, 3, 4, seed=0).requires_grad_(), vectors(2, 3, 6, seed=1).requires_grad_()
    projector = nn.Linear(4, 6)
    feature_loss(projector, student, teacher).backward()
    assert student.grad is not None
    assert all(parameter.grad is not None for parameter in projector.parameters())
    assert teacher.grad is None


def plain_relation(tokens, heads, head, seen):
    """softmax(X X^T / sqrt(D / heads)) of one window and one relation head, over the tokens that are seen."""
    width = len(tokens[0]) // heads
    parts = [row[head * width : (head + 1) * width] for row in tokens]
    relation = []
    for i in seen:
        powers = [
            math.exp(sum(a * b for a, b in zip(parts[i], parts[j], strict=True)) / math.sqrt(width)) for j in seen
        ]
        relation.append([power / sum(powers) for power in powers])
    return relation


def plain_loss(student, teacher, heads, valid):
    total = 0.0
    for b in range(len(student)):
        seen = [i for i in range(student.shape[1]) if valid[b, i]]
        window = 0.0
        for head in range(heads):
            ours = plain_relation(student[b].tolist(), heads, head, seen)
            theirs = plain_relation(teacher[b].tolist(), heads, head, seen)
            for q_row, p_row in zip(ours, theirs, strict=True):
                window += sum(p * math.log(p / q) for p, q in zip(p_row, q_row, strict=True))
        total += window / (heads * len(seen))
    return total / len(student)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_it_equals_a_plain_loop_for_other_widths(heads):
    student, teacher = vectors(2, 5, 8, seed=0), vectors(2, 5, 12, seed=1)
    valid = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 0.0]])
    loss = relation_loss(student, teacher, heads=heads, valid=valid).item()
    assert loss == pytest.approx(plain_loss(student, teacher, heads, valid), rel=1e-4)


def test_even_relations_against_a_sharp_one_have_a_closed_form():
    # The student's tokens are all zero: each relates evenly to both. The teacher's are so far apart that each relates
    # to itself alone: KL = log 2.
    loss = relation_loss(torch.zeros(1, 2, 4), torch.tensor([[[30.0, 0.0], [0.0, 30.0]]]), heads=1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@given(st.integers(0, 100), st.integers(1, 6), st.sampled_from([1, 2, 4]))
@settings(max_examples=25, deadline=None)
def test_it_is_zero_at_equality_or_after_a_rotation_and_never_below(seed, length, heads):
    student, other = vectors(2, length, 8, seed=seed), vectors(2, length, 8, seed=seed + 1)
    rotation = torch.linalg.qr(vectors(8 // heads, 8 // heads, seed=seed))[0]
    rotated = torch.cat([part @ rotation for part in student.chunk(heads, -1)], dim=-1)
    assert relation_loss(student, student, heads=heads).item() == 0.0
    # A relation knows angles and lengths alone; products of order 10 in float32.
    assert relation_loss(student, rotated, heads=heads).item() == pytest.approx(0.0, abs=1e-5)
    assert relation_loss(student, other, heads=heads).item() > -1e-6


def test_the_student_learns_and_the_teacher_gets_no_gradient():
    student, teacher = vectors(2, 3, 4, seed=0).requires_grad_(), vectors(2, 3, 4, seed=1).requires_grad_()
    relation_loss(student, teacher, heads=2).backward()
    assert bool(student.grad.any())
    assert teacher.grad is None


@pytest.mark.parametrize(("length", "width", "heads"), [(5, 8, 2), (4, 6, 4)])
def test_relations_that_cannot_be_compared_are_refused(length, width, heads):
    pair = vectors(1, 4, 8, seed=0), vectors(1, length, width, seed=1)
    assert said(ValueError, relation_loss, *pair, heads=heads) == (
        f"relations: expected as many tokens on both sides and widths that are multiples of {heads} heads, got "
        f"(B, L, D)=(1, 4, 8) of the student and (1, {length}, {width}) of the teacher"
    )


def maps(*shape, seed):
    return vectors(*shape, seed=seed).mul(2).softmax(-1)


def plain_edam(student, teacher, valid, weight):
    """sum_j A_T log(A_T / A_S), A_S the mean over heads; mean over valid rows, weighted over windows."""
    batch, heads, length, _ = student.shape
    total = 0.0
    for b in range(batch):
        window, rows = 0.0, 0
        for i in range(length):
            if valid[b, i] == 0:
                continue
            rows += 1
            for j in range(length):
                mean = sum(float(student[b, h, i, j]) for h in range(heads)) / heads
                window += float(teacher[b, i, j]) * math.log(float(teacher[b, i, j]) / mean)
        total += float(weight[b]) * window / rows
    return total / float(weight.sum())


@pytest.mark.parametrize("masked", [True, False])
def test_attention_equals_a_plain_loop(masked):
    student, teacher = maps(2, 3, 4, 4, seed=0), maps(2, 4, 4, seed=1)
    valid, weight = torch.ones(2, 4), torch.ones(2)
    masks = {}
    if masked:
        valid = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
        weight = torch.tensor([0.25, 1.0])
        masks = {"valid_rows": valid, "weight": weight}
    loss = edam_loss(student, teacher, **masks).item()
    assert loss == pytest.approx(plain_edam(student, teacher, valid, weight), rel=1e-5)  # float32 against float64


def test_the_loss_is_the_students_log_share_key_by_key_and_finite():
    student = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert edam_loss(student, teacher).item() == pytest.approx(-(math.log(0.25) + math.log(0.5)) / 2, rel=1e-6)
    student = torch.tensor([[[[1.0, 0.0]]]], requires_grad=True)
    loss = edam_loss(student, torch.tensor([[[0.0, 1.0]]]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(EPSILON), rel=1e-6)
    assert bool(student.grad.isfinite().all())
    teacher = maps(1, 1, 2, 8, seed=0)  # (2 time + 2 summary) keys of each of two sources
    aligned = aligned_map(teacher, source_lengths=[2, 2], length=2)
    torch.testing.assert_close(aligned, teacher[:, 0, :, :4] + teacher[:, 0, :, 4:], atol=1e-6, rtol=1e-6)


@given(st.integers(0, 100), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_it_is_zero_at_equality_and_never_below(seed, heads, length):
    student, teacher = maps(2, heads, length, length, seed=seed), maps(2, length, length, seed=seed + 1)
    # Sums of at most six terms of order 1 in float32.
    assert edam_loss(student, student.mean(1)).item() == pytest.approx(0.0, abs=1e-6)
    assert edam_loss(student, teacher).item() > -1e-6


@pytest.mark.parametrize(
    ("source_length", "length", "key", "expected"),
    [
        (4, 2, 3, [0.0, 1.0]),  # the later half of the window
        (2, 4, 0, [0.5, 0.5, 0.0, 0.0]),
        (3, 2, 1, [0.5, 0.5]),  # the middle third lies half in each half
        (1, 3, 0, [1 / 3, 1 / 3, 1 / 3]),
        (3, 1, 2, [1.0]),
    ],
)
def test_attention_to_a_moment_goes_to_the_keys_of_that_moment(source_length, length, key, expected):
    teacher = torch.zeros(1, 1, 1, source_length + 2)
    teacher[..., key] = 1.0
    aligned = aligned_map(teacher, source_lengths=[source_length], length=length)
    torch.testing.assert_close(aligned[0, 0], torch.tensor([*expected, 0.0, 0.0]))


def test_keys_that_the_student_cannot_see_are_taken_out_and_others_refused():
    teacher = torch.tensor([[[[0.1, 0.3, 0.4, 0.2]]]])
    aligned = aligned_map(teacher, source_lengths=[2], length=2, valid_keys=torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    torch.testing.assert_close(aligned[0, 0], torch.tensor([0.1, 0.0, 0.4, 0.2]) / 0.7)
    aligned = aligned_map(maps(1, 1, 2, 3, seed=0), source_lengths=[1], length=1, valid_keys=torch.zeros(1, 3))
    assert aligned.tolist() == [[[0.0] * 3] * 2]
    problem = said(ValueError, aligned_map, maps(1, 1, 2, 9, seed=0), source_lengths=[2, 2], length=2)
    assert problem == "teacher map: expected 8 keys from sources [2, 2], got 9"
