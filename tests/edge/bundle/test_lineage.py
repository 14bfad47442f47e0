from __future__ import annotations

import msgspec

from mmkd_edge.bundle.manifest import Adapted, adapted_text


def step(
    *, teacher: str | None = None, labels: int = 0, forgotten: float = 0.0, fraction: float | None = None
) -> Adapted:
    return Adapted(
        from_sha256="1" * 64,
        dataset="line two",
        dataset_sha256="2" * 64,
        method="statistics",
        teacher_sha256=teacher,
        labels=labels,
        gain_points=2.5,
        forgotten_points=forgotten,
        fraction=fraction,
    )


def test_an_adaptation_is_one_line() -> None:
    begin = f"checkpoint {'1' * 64} to line two (SHA-256 {'2' * 64}) by 'statistics'"
    assert adapted_text(step()) == f"{begin}: estimate +2.5 points, old domain +0.0"
    assert adapted_text(step(teacher="3" * 64, labels=40, forgotten=0.5)) == (
        f"{begin}, teacher {'3' * 64}, 40 labels: estimate +2.5 points, old domain -0.5"
    )


def test_how_far_a_student_went_is_said_where_it_is_not_all_of_the_way() -> None:
    assert " by 'statistics', 25% of the way, 40 labels: estimate" in adapted_text(step(labels=40, fraction=0.25))
    assert msgspec.json.decode(msgspec.json.encode(step(fraction=0.25)), type=Adapted) == step(fraction=0.25)
    assert b"fraction" not in msgspec.json.encode(step())
