"""Causal students of series and of sound: steps give the answers of whole windows."""

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmkd_app.commands.distill import run_distill
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.batches import Batch
from mmkd_models.distillation.learner import DistillLearner
from mmkd_models.distillation.recipe import Recipe
from mmkd_models.losses.attention import EdamTerm
from mmkd_models.losses.features import FeatureTerm, RelationTerm
from mmkd_models.losses.logits import LogitTerm
from mmkd_models.losses.term import constant
from mmkd_models.networks.causal import CausalEncoder, last_blocks
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig, student_config
from mmkd_models.networks.fronts.causal import CausalFront, CausalSound
from mmkd_models.networks.fronts.log_mel import LogMels
from mmkd_models.networks.step import StepStudent, causal_encoder
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher
from mmkd_models.training.checkpoint import file_sha256, read_student
from tests.edge.said import said
from tests.models.judging_rig import write_random_teacher
from tests.models.networks.stepping import answers_along, stepped

ENCODER = EncoderConfig(width=16, heads=2, depth=2, most_tokens=8, dropout=0.0)
CONFIG = StudentConfig(preset="test", encoder=ENCODER, causal=True)


def modality(samples=32, *, channels=2):
    return ModalitySpec(name="acc", channels=tuple(f"c{i}" for i in range(channels)), rate_hz=20.0, samples=samples)


def student(spec, *, seed=0):
    """With weights and position codes that differ everywhere, and statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    network = Student(spec, 3, CONFIG).eval()
    encoder = causal_encoder(network)
    statistics = {"mean": 0.3, "std": 1.7}
    if spec.kind == "audio":
        statistics = {"mean": 0.01, "std": 0.3, "mel_mean": -5.0, "mel_std": 2.5}
    with torch.no_grad():
        encoder.relative += torch.randn_like(encoder.relative)
        for name, value in statistics.items():
            getattr(encoder.front, name).fill_(value)
    return network


def recording(samples, *, channels=2, missing=0.0, seed=0, is_sound=False):
    """(1, T, C): noise with a slow drift, so that no two stretches are alike, or of a loudness that rises and falls."""
    generator, time = torch.Generator().manual_seed(seed), torch.arange(samples)[:, None]
    values = torch.randn(1, samples, channels, generator=generator)
    values = values * (0.05 + 0.4 * torch.sin(time / 90).square()) if is_sound else values + 2 * torch.sin(time / 40)
    present = (torch.rand(values.shape, generator=generator) >= missing).float()
    return values * present, present


def steps_with_samples(encoder, present):
    """The steps (of one recording) whose window has a sample."""
    there = encoder.padded(present)[0].amax(1).view(-1, encoder.stride).amax(1)
    windows = [there[max(0, step + 1 - encoder.length) : step + 1] for step in range(len(there))]
    return [step for step, window in enumerate(windows) if window.any()]


# One network, three forms. Tolerances: two orders of the same float32 sums over some hundred products of about 1;
# measured below 5e-7.


@settings(max_examples=5, deadline=None)
@example(samples=6, missing=0.3, seed=39)  # nothing in the first block
@given(samples=st.integers(3, 70), missing=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 99))
def test_stepping_through_a_recording_equals_one_pass_over_it(samples, missing, seed):
    network = student(modality(samples), seed=seed)
    values, present = recording(4 * samples, missing=missing, seed=seed)
    silent = slice(samples, samples + samples // 2)  # a gap of half a window
    present[:, silent] = 0
    values = values * present
    one_pass = answers_along(network, values, present)
    assert one_pass.shape == (1, math.ceil(4 * samples / causal_encoder(network).stride), 3)
    heard = steps_with_samples(causal_encoder(network), present)  # elsewhere logits mean nothing
    torch.testing.assert_close(stepped(network, values, present)[:, heard], one_pass[:, heard], atol=5e-6, rtol=0)


@pytest.mark.parametrize("samples", [3, 15, 32, 33, 100])
def test_the_answer_for_a_window_is_that_of_its_last_step(samples):
    network = student(modality(samples, channels=3))
    values, present = recording(samples, channels=3, missing=0.2)
    with torch.no_grad():
        window = network(values, present).logits
    torch.testing.assert_close(stepped(network, values, present)[:, -1], window, atol=5e-6, rtol=0)
    torch.testing.assert_close(answers_along(network, values, present)[:, -1], window, atol=5e-6, rtol=0)


def test_a_step_divides_its_logits_by_the_temperature_for_the_probabilities():
    network = student(modality())
    values, present = recording(causal_encoder(network).stride)
    for temperature in (1.0, 2.5):
        step = StepStudent(network, temperature=temperature).eval()
        with torch.no_grad():
            logits, probabilities, *_ = step(values, present, torch.zeros(1, 1), *step.start())
        torch.testing.assert_close(probabilities, torch.softmax(logits / temperature, dim=-1))


def test_nothing_that_comes_later_changes_an_answer_and_the_memory_ends_where_it_says():
    network = student(modality())
    stride = causal_encoder(network).stride
    values, present = recording(128)
    before = answers_along(network, values, present)
    other = values.clone()
    other[:, 60:] += 5.0
    after = answers_along(network, other, present)
    same = 60 // stride
    # The same sums over the same numbers; only their place in the batch differs.
    torch.testing.assert_close(after[:, :same], before[:, :same], atol=1e-6, rtol=0)
    assert (after[:, same:] - before[:, same:]).abs().amax(-1).min() > 1e-5
    encoder = causal_encoder(network)
    assert (encoder.stride, encoder.length, encoder.reach) == (4, 8, 9)
    assert encoder.memory == 4 * (4 * 7 + 1 + 3)  # the stem's 9 samples lie in three blocks
    values, present = recording(encoder.memory + 40)
    last = answers_along(network, values, present)[:, -1]
    older, newer = values.clone(), values.clone()
    older[:, :40] += 3.0
    newer[:, :44] += 3.0
    assert torch.equal(answers_along(network, older, present)[:, -1], last)
    assert not torch.equal(answers_along(network, newer, present)[:, -1], last)
    values, present = recording(encoder.memory + 64, seed=3)
    begun = stepped(network, values[:, -64:], present[:, -64:])
    present[:, :-64] = 0
    silent = stepped(network, values * present, present)
    torch.testing.assert_close(silent[:, -begun.shape[1] :], begun, atol=5e-6, rtol=0)


def test_a_token_attends_to_what_came_before_it_alone_and_without_samples_answers_are_finite():
    spec = modality()
    output = student(spec)(*recording(32), taps=True)
    for weights in output.attention:
        assert weights.shape == (1, 2, 10, 10)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 10), atol=1e-5, rtol=0)
        assert weights[..., :8, :8].triu(1).max() == 0  # time tokens see no later ones
        assert weights[..., 8:].max() == 0  # spectrum and statistics are asked by none
        assert weights[..., 8:, :8].min() > 0  # and ask all
    nothing = torch.zeros(1, *spec.shape)
    assert bool(stepped(student(spec), nothing, nothing).isfinite().all())
    assert bool(student(spec)(nothing, nothing).logits.isfinite().all())


def test_what_has_no_steps_or_maps_is_refused():
    assert said(UsageError, Student, modality(2), 3, CONFIG) == (
        "modality 'acc': expected windows of at least 3 samples for a causal student, got 2; train a windowed one"
    )
    windowed = Student(modality(), 3, msgspec.structs.replace(CONFIG, causal=False))
    assert said(ValueError, StepStudent, windowed) == (
        "student: expected a causal one, got one that looks at whole windows; train with --causal"
    )
    spec = modality()
    recipe = Recipe(terms=(EdamTerm(weight=constant(1.0)),))
    assert said(UsageError, DistillLearner, student(spec), teacher(spec), recipe, modality="acc") == (
        "recipe: term 'edam': expected a windowed student, got a causal one: its tokens attend to what came before "
        "them alone, and the teacher's maps look at the whole window; leave the term out"
    )


def summary_at(front, values, present, block):
    """The spectrum (C F,) and the statistics (S,) after that block of (1, T, C)."""
    encoder = CausalEncoder(modality(32, channels=values.shape[-1]), ENCODER)
    encoder.front = front
    recording = encoder.recording(values, present)
    band = last_blocks(torch.tensor([block]), recording.time.shape[1], encoder.length).to(values)
    spectrum, statistics = front.summary(recording.blocks, front.running(recording.blocks.moments, band), band)
    return spectrum[0, 0], statistics[0, 0]


def test_running_statistics_products_and_filters_are_those_of_the_last_window():
    front = CausalFront(modality(32), stride=4, tokens=8, bands=4)
    values, present = recording(80, missing=0.25, seed=5)
    _, found = summary_at(front, values, present, 16)
    stretch = slice(68 - 32, 68)
    x = np.where(present[0, stretch].bool(), values[0, stretch], np.nan).astype(np.float64)
    mean, std = np.nanmean(x, 0), np.sqrt(np.nanvar(x, 0) + 1e-4)
    whole = np.where(present[0, :68].bool(), values[0, :68], np.nan).astype(np.float64)
    steps = np.nanmean(np.abs(np.diff(whole, axis=0))[-32:], axis=0)
    levels = np.array([-1.5, -0.75, -0.25, 0.25, 0.75, 1.5])
    below = np.nanmean(1 / (1 + np.exp(-4 * (levels - x[..., None]))), axis=0)  # NaN stays NaN
    expected = [mean, np.log(std), np.nanmin(x, 0), np.nanmax(x, 0), steps, below.ravel()]
    # Channels miss different samples, so products are checked where nothing is missing, below.
    np.testing.assert_allclose(found[:-4], np.concatenate(expected), atol=2e-5)
    values, present = recording(80, seed=6)
    values[..., 1] = 0.6 * values[..., 0] + 0.8 * values[..., 1]
    _, found = summary_at(front, values, present, 16)
    expected = np.corrcoef(values[0, 36:68].numpy().astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found[-4:].reshape(2, 2), expected, atol=1e-3)  # the spread has a floor of 0.01
    front = CausalFront(modality(256, channels=1), stride=8, tokens=32, bands=12)
    bank = front.filters.numpy().astype(np.float64)
    kernels = bank[:, :12] + 1j * bank[:, 12:]
    np.testing.assert_allclose(np.abs(kernels.sum(0)), 0, atol=1e-6)
    np.testing.assert_allclose((np.abs(kernels) ** 2).sum(0), 1, atol=1e-6)  # the power of white noise
    for number in (2, 6, 11):
        spectrum = np.abs(np.fft.fft(kernels[:, number], 4096)) ** 2
        frequency = np.fft.fftfreq(4096)[spectrum.argmax()]
        own = np.abs(np.exp(-2j * np.pi * frequency * np.arange(256)) @ kernels)
        assert own.argmax() == number


def test_half_of_the_training_batches_follow_upon_another_window():
    network = student(modality()).train()
    values = torch.randn(4, 32, 2, generator=torch.Generator().manual_seed(0))
    present = torch.ones_like(values)
    torch.manual_seed(0)
    alone = network.eval()(values, present).logits
    network.train()
    followed = []
    for _ in range(40):
        logits = network(values, present).logits
        followed.append(not torch.allclose(logits, alone, atol=1e-5))
    assert 10 < sum(followed) < 30
    # What came before is the window of the row before: the same as one recording of both.
    network.eval()
    both = torch.cat([values[-1:], values[:1]], dim=1)
    expected = answers_along(network, both, torch.ones_like(both))[:, -1]
    network.train()
    torch.manual_seed(0)  # whose first number is 0.496
    torch.testing.assert_close(network(values, present).logits[:1], expected, atol=5e-6, rtol=0)


def teacher(spec):
    torch.manual_seed(1)
    other = ModalitySpec(name="gyro", channels=("z",), rate_hz=10.0, samples=16)
    return Teacher([spec, other], 3, TeacherConfig(preset="test", encoder=ENCODER, fusion_depth=1))


def test_outputs_relations_and_hidden_states_teach_a_causal_student():
    spec = modality()
    terms = (
        LogitTerm(weight=constant(1.0)),
        RelationTerm(weight=constant(1.0), heads=2),
        FeatureTerm(weight=constant(1.0)),
    )
    learner = DistillLearner(student(spec).train(), teacher(spec), Recipe(terms=terms), modality="acc")
    values, present = (x.expand(4, -1, -1) for x in recording(32))
    inputs = {"acc": (values, present), "gyro": (torch.ones(4, 16, 1), torch.ones(4, 16, 1))}
    batch = Batch(inputs=inputs, targets=torch.eye(3)[[0, 1, 2, 0]], labelled=torch.ones(4), index=torch.arange(4))
    for seed in range(3):  # with and without a window before
        torch.manual_seed(seed)
        learner.zero_grad()
        found = learner(batch, 0.5)
        found["loss"].backward()
        assert set(found) == {"logit", "relation", "feature", "loss"}
        encoder = causal_encoder(learner.network)  # type: ignore[arg-type]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())


def test_the_command_distils_a_causal_student(tmp_path, dataset, teacher_checkpoint, capsys):
    teacher_file = write_random_teacher(tmp_path / "teacher.ckpt", teacher_checkpoint, dataset)
    file, brief = (
        tmp_path / "student.ckpt",
        ["--preset", "tiny", "--steps", "2", "--batch", "4", "--causal", "--no-choose"],
    )
    with pytest.raises(SystemExit, match="0"):
        run_distill([str(teacher_file), str(dataset.path), "--modality", "acc", *brief, "-o", str(file)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote {file}; next: mmkd-export {file} -o {file.with_suffix('.edge')}"
    checkpoint = read_student(file)
    assert checkpoint.config == student_config("tiny", causal=True)
    network, window = checkpoint.network(), recording(80)
    torch.testing.assert_close(stepped(network, *window), answers_along(network, *window), atol=2e-5, rtol=0)
    assert checkpoint.facts.teacher_sha256 == file_sha256(teacher_file)
    assert {type(term) for term in checkpoint.facts.recipe.terms} == {LogitTerm}


TOLERANCE = 2e-5  # two orders of the same float32 sums, over spectra of some ten samples; measured below 2e-6


def sound(samples=400, *, channels=1):
    names = tuple(f"c{number}" for number in range(channels))
    return ModalitySpec(name="mic", kind="audio", channels=names, rate_hz=1000.0, samples=samples)


@settings(max_examples=3, deadline=None)
@example(samples=130, channels=2, missing=0.3, seed=3)
@example(samples=117, channels=1, missing=0.3, seed=1)  # two frames are missing
@given(
    samples=st.integers(64, 500),
    channels=st.sampled_from([1, 2]),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_stepping_through_sound_equals_one_pass_over_it(samples, channels, missing, seed):
    network = student(sound(samples, channels=channels), seed=seed)
    values, present = recording(4 * samples, channels=channels, missing=missing, seed=seed, is_sound=True)
    present[:, samples : samples + samples // 2] = 0  # a gap of half a window
    values = values * present
    encoder = causal_encoder(network)
    presence = encoder.recording(encoder.padded(values), encoder.padded(present)).presence[0]
    first = int(presence.argmax())  # before it no frame is there, and an embedding means nothing
    assert first < 5
    one_pass = answers_along(network, values, present)
    found = stepped(network, values, present)
    torch.testing.assert_close(found[:, first:], one_pass[:, first:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("samples", [64, 250, 400, 1000])
def test_the_answer_for_a_window_of_sound_is_that_of_its_last_step(samples):
    network = student(sound(samples))
    values, present = recording(samples, channels=1, missing=0.1, is_sound=True)
    with torch.no_grad():
        window = network(values, present).logits
    torch.testing.assert_close(stepped(network, values, present)[:, -1], window, atol=TOLERANCE, rtol=0)


def test_frames_along_a_stream_are_those_of_the_log_mels_of_a_window():
    spec = sound(400)
    front = causal_encoder(student(spec)).front
    assert isinstance(front, CausalSound)
    values, present = recording(400, channels=1, missing=0.2, is_sound=True)
    found, there = front(values[:, : 25 * 16], present[:, : 25 * 16])
    mels, wanted = LogMels(spec)(((values - 0.01) / 0.3 * present).transpose(1, 2), present.transpose(1, 2))
    torch.testing.assert_close(found, (mels[:, 0] + 5.0) / 2.5 * wanted[:, 0, :, None], atol=1e-6, rtol=0)
    assert torch.equal(there[..., 0], wanted[:, 0])
