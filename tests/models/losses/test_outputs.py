"""Losses on outputs, for every kind of task."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_models.losses.logits import dist_loss, dkd_loss, kl_loss, multilabel_kl_loss, pearson_loss, regression_loss
from mmkd_models.losses.task import huber_loss, label_loss


def plain_kl(student, teacher, temperature):
    """T^2 sum_k p_k log(p_k / q_k), mean over rows, number by number."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(v / temperature) for v in s]
        p = [math.exp(v / temperature) for v in t]
        for q_k, p_k in zip(q, p, strict=True):
            total += (p_k / sum(p)) * math.log((p_k / sum(p)) / (q_k / sum(q)))
    return temperature**2 * total / len(student)


def logits(batch, classes, seed):
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_equals_a_plain_loop(classes, temperature):
    student, teacher = logits(5, classes, 0), logits(5, classes, 1)
    loss = kl_loss(student, teacher, temperature=temperature).item()
    # The loop is float64, the loss float32 on values of order 10: 1e-6 relative with room for cancellation.
    assert loss == pytest.approx(plain_kl(student, teacher, temperature), rel=1e-5)


def test_a_certain_teacher_costs_log_k_and_gradients_are_differences():
    teacher = torch.tensor([[400.0, 0.0, 0.0, 0.0]])
    assert kl_loss(torch.zeros(1, 4), teacher, temperature=2.0).item() == pytest.approx(4 * math.log(4), rel=1e-6)
    # Section 2.1: for T large against zero-mean logits, T^2 times the gradient is (z_i - v_i) / K, here over B rows.
    student = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
    kl_loss(student, teacher, temperature=1000.0).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / (3 * 2), atol=1e-3, rtol=1e-2)
    # Row correlations give no gradient at K = 2; this loss must. With d = s_1 - s_0 it is
    # T^2 KL of two Bernoullis, so dL/ds_1 = T (sigmoid(d_s / T) - sigmoid(d_t / T)).
    student = torch.tensor([[0.0, 0.4]], requires_grad=True)
    kl_loss(student, torch.tensor([[0.0, 3.0]]), temperature=2.0).backward()
    expected = 2.0 * (1 / (1 + math.exp(-0.2)) - 1 / (1 + math.exp(-1.5)))
    assert student.grad[0, 1].item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 0.5


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_it_is_zero_when_both_agree_up_to_a_shift_and_never_below(seed, classes, shift):
    student, other = logits(3, classes, seed), logits(3, classes, seed + 1)
    # Rounding of logits of order 10 in float32 is 1e-6; the divergence is quadratic in it, its terms are not.
    assert kl_loss(student, student + shift, temperature=2.0).item() == pytest.approx(0.0, abs=1e-5)
    assert kl_loss(student, other, temperature=2.0).item() > -1e-5


T = 2.0


def softmax(row):
    powers = [math.exp(v / T) for v in row]
    return [power / sum(powers) for power in powers]


def plain_parts(student, teacher, target):
    """TCKD, NCKD and the teacher's p_target of each row, number by number."""
    parts = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        q, p = softmax(s), softmax(t)
        tckd = p[label] * math.log(p[label] / q[label])
        tckd += (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
        nckd = 0.0
        for k in range(len(p)):
            if k != label:
                p_k, q_k = p[k] / (1 - p[label]), q[k] / (1 - q[label])
                nckd += p_k * math.log(p_k / q_k)
        parts.append((tckd, nckd, p[label]))
    return parts


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_decoupled_equals_a_plain_loop(classes):
    student, teacher, target = logits(5, classes, 0), logits(5, classes, 1), torch.arange(5) % classes
    loss = dkd_loss(student, teacher, target, temperature=T, alpha=0.7, beta=3.0).item()
    rows = [0.7 * tckd + 3.0 * nckd for tckd, nckd, _ in plain_parts(student, teacher, target)]
    # The loop is float64, the loss float32 on values of order 10.
    assert loss == pytest.approx(T**2 * sum(rows) / 5, rel=1e-5)


def test_both_parts_with_the_teachers_doubt_make_the_whole_divergence():
    # The decomposition of the paper, one row: KL = TCKD + (1 - p_target) NCKD.
    student, teacher, target = logits(1, 6, 0), logits(1, 6, 1), torch.tensor([2])
    doubt = 1 - torch.softmax(teacher / T, dim=-1)[0, 2].item()
    split = dkd_loss(student, teacher, target, temperature=T, alpha=1.0, beta=doubt).item()
    assert split == pytest.approx(kl_loss(student, teacher, temperature=T).item(), rel=1e-5)


def test_decoupled_losses_have_closed_forms_for_even_students_and_two_classes():
    # Both put 1/4 on the target; of the others the teacher names one, the student all three: NCKD = log 3.
    teacher = torch.tensor([[0.0, T * math.log(3), -400.0, -400.0]])
    loss = dkd_loss(torch.zeros(1, 4), teacher, torch.tensor([0]), temperature=T, alpha=5.0, beta=2.0)
    assert loss.item() == pytest.approx(T**2 * 2.0 * math.log(3), rel=1e-5)
    student, teacher, target = logits(4, 2, 0).requires_grad_(), logits(4, 2, 1), torch.tensor([0, 1, 0, 1])
    loss = dkd_loss(student, teacher, target, temperature=T, alpha=1.0, beta=100.0)
    loss.backward()
    assert loss.item() == pytest.approx(kl_loss(student, teacher, temperature=T).item(), rel=1e-5)
    assert student.grad.abs().max() > 1e-2


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_decoupled_is_zero_when_both_agree_up_to_a_shift_and_never_below(seed, classes, shift):
    student, other, target = logits(3, classes, seed), logits(3, classes, seed + 1), torch.zeros(3, dtype=torch.int64)
    options = {"temperature": T, "alpha": 1.0, "beta": 8.0}
    # Rounding of logits of order 10 in float32 is 1e-6, times beta and T^2.
    assert dkd_loss(student, student + shift, target, **options).item() == pytest.approx(0.0, abs=1e-4)
    assert dkd_loss(student, other, target, **options).item() > -1e-4


def test_far_apart_logits_stay_finite_and_the_teacher_gets_no_gradient():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    dkd_loss(student, teacher, torch.tensor([0]), temperature=1.0, alpha=1.0, beta=1.0).backward()
    assert bool(student.grad.isfinite().all())
    assert teacher.grad is None


@pytest.mark.parametrize("classes", [3, 7])
def test_it_equals_numpys_correlations_one_by_one(classes):
    student, teacher = logits(5, classes, 0), logits(5, classes, 1)
    ours, theirs = (np.array([softmax(row) for row in part.tolist()]) for part in (student, teacher))
    rows = [1 - np.corrcoef(ours[b], theirs[b])[0, 1] for b in range(5)]
    columns = [1 - np.corrcoef(ours[:, k], theirs[:, k])[0, 1] for k in range(classes)]
    expected = T**2 * (0.5 * float(np.mean(rows)) + 2.0 * float(np.mean(columns)))
    loss = dist_loss(student, teacher, temperature=T, beta=0.5, gamma=2.0).item()
    # 1e-8 beside variances of order 0.01, and float32 against float64.
    assert loss == pytest.approx(expected, rel=1e-4)


def test_with_two_classes_only_columns_teach():
    student, teacher = logits(6, 2, 0).requires_grad_(), logits(6, 2, 1)
    assert dist_loss(student, teacher, temperature=T, beta=9.0, gamma=0.0).item() == 0.0
    both = dist_loss(student, teacher, temperature=T, beta=9.0, gamma=1.0)
    assert both.item() == dist_loss(student, teacher, temperature=T, beta=0.0, gamma=1.0).item()
    both.backward()
    assert student.grad.abs().max() > 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_one_window_has_no_columns(classes):
    student, teacher = logits(1, classes, 0).requires_grad_(), logits(1, classes, 1)
    loss = dist_loss(student, teacher, temperature=T, beta=1.0, gamma=1.0)
    loss.backward()
    assert loss.item() == dist_loss(student, teacher, temperature=T, beta=1.0, gamma=0.0).item()
    assert bool(student.grad.isfinite().all())


@given(st.integers(0, 100), st.sampled_from([2, 3, 10]))
@settings(max_examples=25, deadline=None)
def test_it_lies_between_zero_at_equality_and_the_sum_of_both_weights_twice(seed, classes):
    student, teacher = logits(4, classes, seed), logits(4, classes, seed + 1)
    same = dist_loss(student, student, temperature=1.0, beta=1.0, gamma=1.0).item()
    assert same == pytest.approx(0.0, abs=5e-2)  # 1e-8 beside the variance of a class that is hardly ever named
    assert -1e-6 < dist_loss(student, teacher, temperature=1.0, beta=1.0, gamma=1.0).item() < 4 + 1e-5


def test_a_class_that_nobody_names_leaves_the_gradient_finite():
    student = torch.tensor([[3.0, 0.0, -1e4], [0.0, 2.0, -1e4]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1e4], [0.0, 1.0, -1e4]], requires_grad=True)
    dist_loss(student, teacher, temperature=1.0, beta=1.0, gamma=1.0).backward()
    assert bool(student.grad.isfinite().all())
    assert teacher.grad is None


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_the_divergence_and_labels_are_those_of_k_coins():
    student, teacher, temperature = logits(3, 4, 0), logits(3, 4, 1), 2.5
    total = 0.0
    for row in range(3):
        of_row = 0.0
        for label in range(4):
            p, q = (sigmoid(float(side[row, label]) / temperature) for side in (teacher, student))
            of_row += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        total += of_row / 4
    found = multilabel_kl_loss(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(total / 3 * temperature**2, rel=1e-5)  # float32
    answers, targets = logits(3, 2, 2), torch.tensor([[1.0, 0.0], [0.25, 1.0], [0.0, 0.0]])
    total = 0.0
    for row in range(2):
        for label in range(2):
            p, y = sigmoid(float(answers[row, label])), float(targets[row, label])
            total -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / 4
    found = label_loss(answers, targets, weight=torch.tensor([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(total, rel=1e-5)  # float32
    teacher = torch.full((1, 1), math.log(3.0))  # three to one
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(multilabel_kl_loss(torch.zeros(1, 1), teacher, temperature=1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(label_loss(torch.zeros(5, 3), torch.ones(5, 3))) == pytest.approx(math.log(2), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.floats(0.5, 6.0), st.integers(0, 100))
def test_it_is_zero_at_equality_positive_elsewhere_and_labels_do_not_compete(labels, temperature, seed):
    student, teacher = logits(4, labels, seed), logits(4, labels, seed + 1)
    assert float(multilabel_kl_loss(teacher, teacher, temperature=temperature)) == pytest.approx(0, abs=1e-6)
    assert float(multilabel_kl_loss(student, teacher, temperature=temperature)) > 0
    # A label more leaves the gradient of the others as it was, but for the mean over labels.
    student.requires_grad_()
    multilabel_kl_loss(student, teacher, temperature=temperature).backward()
    alone = student.detach()[:, :1].clone().requires_grad_()
    multilabel_kl_loss(alone, teacher[:, :1], temperature=temperature).backward()
    assert alone.grad is not None
    torch.testing.assert_close(student.grad[:, :1] * labels, alone.grad, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_cross_entropy_against_the_teachers_probabilities():
    one, other = (logits(3, 4, 3).requires_grad_() for _ in range(2))
    teacher = logits(3, 4, 4).requires_grad_()
    multilabel_kl_loss(one, teacher, temperature=1.0).backward()
    label_loss(other, teacher.detach().sigmoid()).backward()
    assert one.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(one.grad, other.grad, atol=1e-7, rtol=1e-4)
    assert teacher.grad is None


def test_huber_is_square_near_straight_far_and_weighted():
    found = [
        float(huber_loss(torch.tensor([d]), torch.tensor([0.0]), delta=2.0)) for d in (0.0, 1.0, -1.0, 2.0, 5.0, -5.0)
    ]
    assert found == [0.0, 0.5, 0.5, 2.0, 8.0, 8.0]
    values, targets, weights = logits(1, 6, 0)[0], logits(1, 6, 1)[0], [1.0, 0.5, 0.0, 1.0, 1.0, 0.25]
    total = 0.0
    for value, target, weight in zip(values.tolist(), targets.tolist(), weights, strict=True):
        distance = abs(value - target)
        total += weight * (distance**2 / 2 if distance <= 1 else distance - 0.5)
    found = huber_loss(values, targets, delta=1.0, weight=torch.tensor(weights))
    assert float(found) == pytest.approx(total / sum(weights), rel=1e-5)  # float32
    values = torch.tensor([0.0, 0.0], requires_grad=True)
    huber_loss(values, torch.tensor([0.5, 1e6]), delta=1.0).backward()
    assert values.grad.tolist() == [-0.25, -0.5]


def test_pearson_is_numpys_correlation_and_one_window_has_none():
    values, teacher = logits(2, 9, 2)
    expected = 1 - np.corrcoef(values.double().numpy(), teacher.double().numpy())[0, 1]
    assert float(pearson_loss(values, teacher)) == pytest.approx(expected, abs=1e-5)  # float32
    value = torch.ones(1, requires_grad=True)
    loss = pearson_loss(value, torch.zeros(1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert value.grad.tolist() == [0.0]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_count_may_be_nan(rows):
    values = torch.ones(rows, requires_grad=True)
    targets = torch.full((rows,), math.nan)
    targets[0] = 3.0
    weight = torch.zeros(rows)
    weight[0] = 1.0
    loss = huber_loss(values, targets, delta=1.0, weight=weight)
    loss.backward()
    assert float(loss.detach()) == 1.5
    assert values.grad.tolist() == [-1.0] + [0.0] * (rows - 1)


def test_a_student_learns_both_from_a_teacher_and_nothing_flows_back():
    values, teacher = (logits(1, 6, seed)[0].requires_grad_() for seed in (5, 6))
    loss = regression_loss(values, teacher)
    expected = huber_loss(values, teacher, delta=1.0) + pearson_loss(values, teacher)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.grad is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = regression_loss(values.bfloat16(), teacher)
    assert half.dtype == torch.float32
