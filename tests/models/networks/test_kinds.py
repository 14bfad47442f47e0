"""Students and teachers of sound and of video, beside series."""

import pytest
import torch

from mmkd_edge.spec import ModalitySpec
from mmkd_models.networks.config import EncoderConfig, StudentConfig, TeacherConfig, student_config
from mmkd_models.networks.encoder import Encoder
from mmkd_models.networks.layers import MASKED
from mmkd_models.networks.student import Student
from mmkd_models.networks.teacher import Teacher, hide_modalities

ENCODER = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)
ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=20.0, samples=20)
MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=4000.0, samples=2000)
LIPS = ModalitySpec(name="lips", kind="video", channels=("r", "g", "b"), rate_hz=12.0, samples=6, height=16, width=24)
LONG = ModalitySpec(name="long", kind="video", channels=("gray",), rate_hz=25.0, samples=20, height=9, width=8)
ALL = (ACC, MIC, LIPS)


def windows(spec, *, batch=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    present = torch.ones(batch, *spec.presence_shape)
    if spec.kind == "video":
        return torch.randint(0, 256, (batch, *spec.shape), dtype=torch.uint8, generator=random), present
    return torch.randn(batch, *spec.shape, generator=random), present


def student(spec):
    torch.manual_seed(0)
    return Student(spec, 3, StudentConfig(preset="toy", encoder=ENCODER)).eval()


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("tiny", {"mic": 74_314, "cam": 81_170}),
        ("small", {"mic": 203_114, "cam": 272_598}),
        ("medium", {"mic": 722_162, "cam": 984_118}),
        ("base", {"mic": 2_462_218, "cam": 3_292_426}),
    ],
)
def test_a_preset_has_the_size_that_the_page_says(preset, parameters):
    mic = ModalitySpec(name="mic", kind="audio", channels=("m",), rate_hz=16_000.0, samples=16_000)
    cam = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=16, height=96, width=96)
    for spec in (mic, cam):
        found = sum(one.numel() for one in Student(spec, 10, student_config(preset)).parameters())
        assert found == parameters[spec.name]


@pytest.mark.parametrize(("spec", "tokens"), [(MIC, 8), (LIPS, 6), (LONG, 5)])
def test_frames_become_tokens_within_the_limit(spec, tokens):
    encoder = Encoder(spec, ENCODER).eval()
    values, present = windows(spec)
    assert encoder(values, present).values.shape == (2, tokens + 2, 16)
    assert encoder.length == tokens


@pytest.mark.parametrize("spec", [MIC, LIPS, LONG])
def test_values_where_nothing_is_present_never_change_the_answer(spec):
    network, (values, present) = student(spec), windows(spec)
    present[:, : spec.samples // 2] = 0
    others = windows(spec, seed=1)[0]
    changed = torch.where((present == 0).reshape(*present.shape[:2], *[1] * (values.ndim - 3), -1), others, values)
    assert torch.equal(network(values, present).logits, network(changed, present).logits)


@pytest.mark.parametrize("spec", [MIC, LIPS, LONG])
def test_an_empty_window_is_masked_and_finite(spec):
    network, (values, present) = student(spec).train(), windows(spec)
    output = network(values, present * 0, taps=True)
    output.logits.sum().backward()
    assert bool(output.logits.isfinite().all())
    assert all(one.grad is None or bool(one.grad.isfinite().all()) for one in network.parameters())
    assert float(output.valid.sum()) == 0


def test_a_teacher_takes_series_sound_and_video_and_misses_whole_ones():
    torch.manual_seed(0)
    teacher = Teacher(ALL, 3, TeacherConfig(preset="toy", encoder=ENCODER, fusion_depth=1)).eval()
    inputs = {spec.name: windows(spec) for spec in ALL}
    output = teacher(inputs, taps=True)
    assert output.logits.shape == (2, 3)
    assert {name: maps[0].shape[-1] for name, maps in output.cross_attention.items()} == {
        "acc": 8 + 2 + 6 + 2,
        "mic": 5 + 2 + 6 + 2,
        "lips": 5 + 2 + 8 + 2,
    }
    inputs = {spec.name: windows(spec, batch=200) for spec in ALL}
    hidden = hide_modalities(inputs, 1.0, torch.Generator().manual_seed(0))
    gone = torch.stack([(present == 0).flatten(1).all(1) for _, present in hidden.values()])
    assert gone.sum(0).tolist() == [1] * 200
    assert bool(gone.any(1).all())
    for name, (values, _) in hidden.items():
        assert values.dtype == inputs[name][0].dtype
        assert int(values[gone[list(hidden).index(name)]].count_nonzero()) == 0
    encoder, (values, present) = Encoder(LIPS, ENCODER).eval(), windows(LIPS)
    present[0, 2:4] = 0
    assert encoder(values, present).bias[0].tolist() == [0, 0, MASKED, MASKED, 0, 0, 0, 0]
