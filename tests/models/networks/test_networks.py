"""Encoders, student and teacher: shapes, masks, invariances, dropout, and the features against numpy."""

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig, student_config
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.fronts.series import FrontEnd
from mmkd_models.networks.layers import EXTRA_TOKENS, MASKED, Dropout
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher, hide_modalities
from tests.edge.said import said

ENCODER = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8)
LENGTHS = [1, 2, 3, 15, 30, 60, 64, 100, 201, 1000]


def modality(name="acc", *, samples=40, channels=2, rate_hz=20.0):
    return ModalitySpec(name=name, channels=tuple(f"c{i}" for i in range(channels)), rate_hz=rate_hz, samples=samples)


def window(spec, *, batch=3, seed=0, missing=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, *spec.shape, generator=generator)
    present = (torch.rand(values.shape, generator=generator) >= missing).float()
    return values * present, present


def student(spec, *, classes=3):
    torch.manual_seed(0)
    return Student(spec, classes, StudentConfig(preset="test", encoder=ENCODER)).eval()


SENSORS = [
    modality("acc", samples=40, channels=3, rate_hz=20.0),
    modality("gyro", samples=20, channels=1, rate_hz=10.0),
    modality("audio", samples=200, channels=2, rate_hz=100.0),
    modality("power", samples=15, channels=4, rate_hz=7.5),
    modality("heat", samples=2, channels=1, rate_hz=1.0),
]


def teacher(specs):
    torch.manual_seed(0)
    return Teacher(specs, 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=2)).eval()


def windows(specs, *, missing=0.0):
    return {spec.name: window(spec, seed=number, missing=missing) for number, spec in enumerate(specs)}


def absent(inputs, *names):
    return {
        name: (torch.zeros_like(v), torch.zeros_like(p)) if name in names else (v, p) for name, (v, p) in inputs.items()
    }


@pytest.mark.parametrize(
    ("preset", "parameters"), [("tiny", 60_000), ("small", 200_000), ("medium", 800_000), ("base", 2_700_000)]
)
def test_a_preset_has_about_the_size_it_promises(preset, parameters):
    network = Student(modality(samples=200, channels=3), 5, student_config(preset))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.1)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 17}, {"depth": 0}, {"dropout": 1.0}, {"most_tokens": 0}])
def test_sizes_that_describe_no_network_are_refused(wrong):
    problem = said(ValueError, EncoderConfig, **{"width": 16, "heads": 2, "depth": 1, **wrong})
    assert problem == "expected sizes >= 1, a width that is a multiple of heads, and a dropout in [0, 1)"


@pytest.mark.parametrize("samples", LENGTHS)
def test_every_window_length_gives_tokens_within_the_limit(samples):
    spec = modality(samples=samples)
    output = student(spec)(*window(spec), taps=True)
    length = student(spec).encoder.length
    assert 1 <= length <= ENCODER.most_tokens
    assert output.logits.shape == (3, 3)
    assert output.embedding.shape == (3, 16)
    assert [h.shape for h in output.hidden] == [(3, length + EXTRA_TOKENS, 16)] * 2
    assert [a.shape for a in output.attention] == [(3, 2, length + EXTRA_TOKENS, length + EXTRA_TOKENS)] * 2
    assert bool(output.logits.isfinite().all())


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_asking_for_maps_does_not_change_the_answer(missing):
    spec = modality(samples=100)
    values, present = window(spec, missing=missing)
    present[0, :50] = 0
    network = student(spec)
    fused, mapped = network(values * present, present), network(values * present, present, taps=True)
    # Two orders of the same float32 sums over 10 keys and 16 columns: a few roundings of 1e-7, measured below 1e-6.
    torch.testing.assert_close(mapped.logits, fused.logits, atol=5e-6, rtol=0)
    assert fused.attention == ()
    assert fused.hidden == ()


def map_of(projections, keys):
    """The attention of `ENCODER`'s heads by hand, from projections with the heads side by side."""
    q, k = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (projections.query, projections.key))
    scores = q @ k.transpose(-1, -2) / 8**0.5
    return scores.masked_fill(keys[:, None, None] == 0, -torch.inf).softmax(-1)


def test_projections_made_the_maps_of_a_student_and_a_teacher():
    spec = modality(samples=64)
    values, present = window(spec)
    present[:, :32] = 0
    output = student(spec)(values * present, present, taps=True)
    assert output.valid.tolist() == [[0.0] * 4 + [1.0] * 6] * 3
    for projections, weights in zip(output.projections, output.attention, strict=True):
        torch.testing.assert_close(map_of(projections, output.valid), weights, atol=1e-6, rtol=1e-5)
    network, inputs = teacher(SENSORS[:3]), windows(SENSORS[:3], missing=0.3)
    fused, mapped = network(inputs), network(inputs, taps=True)
    torch.testing.assert_close(mapped.logits, fused.logits, atol=5e-6, rtol=0)  # as for the student, four layers
    assert (fused.hidden, fused.cross_attention) == ({}, {})


@given(st.integers(0, 100), st.floats(0.05, 0.95))
@settings(max_examples=15, deadline=None)
def test_values_where_nothing_is_present_never_change_the_output(seed, missing):
    spec = modality(samples=30)
    values, present = window(spec, seed=seed, missing=missing)
    garbage = values + (1 - present) * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)) * 1e6
    network = student(spec)
    assert torch.equal(network(garbage, present).logits, network(values, present).logits)


def test_what_is_missing_or_glitched_changes_no_other_answer():
    spec = modality()
    values, present = window(spec)
    values[:, 10:20] = 0
    hidden = present.clone()
    hidden[:, 10:20] = 0
    network = student(spec)
    assert not torch.allclose(network(values, present).logits, network(values, hidden).logits, atol=1e-4)
    front = FrontEnd(modality(), 4)
    values, present = window(modality())
    values[:, 5] = 1e9
    assert front(values, present)[0][..., :2].abs().max() == 8.0  # standard deviations of the training data


def test_an_empty_window_or_teacher_input_has_finite_outputs_and_gradients():
    spec = modality()
    network, nothing = student(spec), torch.zeros(2, *spec.shape)
    logits = network(nothing, nothing).logits
    logits.sum().backward()
    assert bool(logits.isfinite().all())
    # Of one batch, but not of one place in it: a matrix product may add up its last rows in another order.
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=1e-6)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    network = teacher(SENSORS[:3])
    output = network(absent(windows(SENSORS[:3]), "acc", "gyro", "audio"), taps=True)
    assert bool(output.logits.isfinite().all())
    assert all(bool(m.isfinite().all()) for maps in output.cross_attention.values() for m in maps)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_teacher_takes_any_number_of_modalities_of_any_rate(count):
    specs = SENSORS[:count]
    network = teacher(specs)
    output = network(windows(specs, missing=0.1), taps=True)
    tokens = {name: cast("Encoder", network.encoders[name]).length + EXTRA_TOKENS for name in network.names}
    assert output.logits.shape == (3, 3)
    assert output.embedding.shape == (3, 16)
    layers = 2 if count > 1 else 0
    for name in network.names:
        others = sum(length for other, length in tokens.items() if other != name)
        assert [m.shape for m in output.cross_attention[name]] == [(3, 2, tokens[name], others)] * layers
        assert [h.shape for h in output.hidden[name]] == [(3, tokens[name], 16)] * (2 + layers)
        assert [p.value.shape for p in output.projections[name]] == [(3, tokens[name], 16)] * (2 + layers)
        assert output.valid[name].shape == (3, tokens[name])


@pytest.mark.parametrize("count", [2, 3])
def test_an_absent_modality_has_no_say_whatever_its_encoder_learnt(count):
    network, inputs = teacher(SENSORS[:count]), absent(windows(SENSORS[:count]), "gyro")
    before = network(inputs).logits
    with torch.no_grad():
        for part in (network.encoders["gyro"], network.pools["gyro"]):
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape))
    assert torch.equal(network(inputs).logits, before)


def test_every_parameter_of_a_teacher_learns_and_it_needs_a_modality():
    network = teacher(SENSORS[:3]).train()
    network(windows(SENSORS[:3], missing=0.1)).logits.square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []
    problem = "teacher: expected at least one modality, got none; name those it shall use"
    assert said(UsageError, teacher, []) == problem


def there(inputs):
    return torch.stack([present.flatten(1).any(1) for _, present in inputs.values()])  # (M, B)


@given(st.integers(0, 1000), st.integers(2, 5), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_modality_dropout_takes_at_most_one_and_never_the_last_one(seed, count, share):
    inputs = windows(SENSORS[:count])
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(count, 3, generator=generator) < share
    inputs = {
        name: (v * ~gone[i][:, None, None], p * ~gone[i][:, None, None])
        for i, (name, (v, p)) in enumerate(inputs.items())
    }
    before = there(inputs)
    after = there(hide_modalities(inputs, 1.0, generator))
    assert bool((after <= before).all())
    assert bool(((before.sum(0) - after.sum(0)) <= 1).all())
    assert bool((after.any(0) == before.any(0)).all())


def test_modality_dropout_with_certainty_takes_exactly_one_and_leaves_its_input_alone():
    inputs, copies = windows(SENSORS[:3]), windows(SENSORS[:3])
    hidden = hide_modalities(inputs, 1.0, torch.Generator().manual_seed(0))
    assert there(hidden).sum(0).tolist() == [2, 2, 2]
    for name, (values, present) in hidden.items():
        assert torch.equal(values, inputs[name][0] * present.amax((1, 2), keepdim=True))
        assert all(torch.equal(*pair) for pair in zip(copies[name], inputs[name], strict=True))


def test_key_scores_follow_the_samples_behind_each_token():
    spec = modality(samples=6, channels=2)
    encoder = Encoder(spec, EncoderConfig(width=8, heads=1, depth=1, most_tokens=3))  # three tokens of two samples
    present = torch.zeros(3, 6, 2)
    present[0, 1, 0] = 1  # one channel of one sample is enough for its token
    present[1, 4:] = 1
    assert encoder.key_bias(present).tolist() == [[0, MASKED, MASKED, 0, 0], [MASKED, MASKED, 0, 0, 0], [MASKED] * 5]


@pytest.mark.parametrize("samples", LENGTHS)
def test_the_spectrum_is_the_power_of_numpys_rfft(samples):
    front = FrontEnd(modality(samples=samples, channels=1), 6)
    signal = np.random.default_rng(0).standard_normal(samples)
    hann = np.hanning(samples + 2)[1:-1]
    bins = max(1, samples // 2)
    expected = np.abs(np.fft.rfft(signal * hann)) ** 2 / (hann**2).sum()
    expected = expected[1 : bins + 1] if samples > 1 else expected[:1]
    real, imaginary = (torch.from_numpy(signal).float() @ front.spectrum_basis).chunk(2)
    # float32 sums of up to 1,000 products.
    np.testing.assert_allclose((real**2 + imaginary**2).numpy(), expected, rtol=1e-3, atol=1e-4)


def plain_statistics(window, std, mean):
    """The statistics token's features of a full window (T, C), from their definitions."""
    scaled = np.clip((window - mean) / std, -8, 8)
    centre, spread = scaled.mean(0), np.sqrt(scaled.var(0) + 1e-4)
    local = (scaled - centre) / spread
    levels = np.array([-1.5, -0.75, -0.25, 0.25, 0.75, 1.5])
    below = 1 / (1 + np.exp(-4 * (levels - scaled[:, :, None])))  # (T, C, levels)
    return np.concatenate(
        [
            centre,
            np.log(spread),
            scaled.min(0),
            scaled.max(0),
            np.abs(np.diff(scaled, axis=0)).mean(0),
            (local**3).mean(0),
            np.log((local**4).mean(0) + 1e-2),
            below.mean(0).ravel(),
            (local.T @ local / len(local)).ravel(),
        ]
    )


def test_statistics_equal_numpys_on_full_and_partly_missing_windows():
    spec = modality(samples=50, channels=3)
    front = FrontEnd(spec, 4)
    mean, std = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 1.0])
    front.mean.copy_(torch.from_numpy(mean))
    front.std.copy_(torch.from_numpy(std))
    values, present = window(spec, batch=2)
    statistics = front(values, present)[2].numpy()
    for row in range(2):
        expected = plain_statistics(values[row].double().numpy(), std, mean)
        np.testing.assert_allclose(statistics[row], expected, atol=1e-5)  # float32 against float64
    spec = modality(samples=40, channels=1)
    values, present = window(spec, batch=1)
    present[:, 25:] = 0
    seen = FrontEnd(spec, 4)(values * present, present)[2]
    whole = FrontEnd(modality(samples=25, channels=1), 4)(values[:, :25], present[:, :25])[2]
    torch.testing.assert_close(seen[:, :-1], whole[:, :-1], atol=1e-5, rtol=1e-4)
    assert seen[0, -1].item() == pytest.approx(whole[0, -1].item() * 25 / 40, rel=1e-4)  # products are over T


def test_the_series_views_are_normalised_by_training_data_and_by_window():
    spec = modality(samples=50, channels=2)
    front = FrontEnd(spec, 4)
    front.mean.fill_(3.0)
    front.std.fill_(2.0)
    values, present = window(spec, batch=1, missing=0.2)
    series = front(values, present)[0]
    torch.testing.assert_close(series[..., :2], (values - 3.0) / 2.0 * present)
    assert torch.equal(series[..., 4:], present)
    local = series[0, :, 2][present[0, :, 0] > 0]
    assert local.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert local.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)  # 1e-4 is added to the variance


def test_with_movement_a_window_at_a_great_level_shows_what_it_shows_at_none():
    spec = modality(samples=40, channels=2)
    front = FrontEnd(spec, 8, movement=True)
    front.std.fill_(40.0)
    front.movement.fill_(0.5)
    values, present = window(spec, missing=0.2)
    series, spectrum, statistics = front(values, present)
    shifted = front((values + 60.0) * present, present)
    assert series.shape == (3, 40, 8)
    np.testing.assert_allclose(shifted[0][..., 2:], series[..., 2:], atol=1e-3)  # float32 at a level of 60
    np.testing.assert_allclose(shifted[1], spectrum, atol=1e-2)
    means, moved = statistics[:, :2], statistics[:, 2:16]  # then spread, extremes, step, skewness, kurtosis, slope
    np.testing.assert_allclose(shifted[2][:, :2] - means, 1.5, atol=1e-5)
    np.testing.assert_allclose(shifted[2][:, 2:16], moved, atol=1e-3)


def test_the_slope_is_of_time_from_minus_one_to_one_in_units_of_movement():
    front = FrontEnd(modality(samples=5, channels=1), 2, movement=True)
    front.movement.fill_(2.0)
    statistics = front(torch.arange(5.0).reshape(1, 5, 1), torch.ones(1, 5, 1))[2]
    # Moved: -1, -0.5, 0, 0.5, 1; time: the same; their mean product.
    assert float(statistics[0, 7]) == pytest.approx(0.5)


def test_a_tenth_is_dropped_in_training_alone_and_the_mean_stays():
    torch.manual_seed(0)
    found = Dropout(0.1)(torch.ones(300, 1000))
    kept = 230 / 256  # the nearest 256th to 0.9
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / kept).item()}
    # Of 300,000 draws the share kept has a standard deviation of sqrt(p q / n) = 0.00055.
    assert abs((found > 0).float().mean().item() - kept) < 0.003
    assert abs(found.mean().item() - 1) < 0.003
    x = torch.ones(4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
