from __future__ import annotations

from mmkd_edge.bundle.manifest import Adapted, adapted_text


def step(*, teacher: str | None = None, labels: int = 0, forgotten: float = 0.0) -> Adapted:
    return Adapted(
        from_sha256="1" * 64,
        dataset="line two",
        dataset_sha256="2" * 64,
        method="statistics",
        teacher_sha256=teacher,
        labels=labels,
        gain_points=2.5,
        forgotten_points=forgotten,
    )


def test_an_adaptation_is_one_line() -> None:
    begin = f"checkpoint {'1' * 64} to line two (SHA-256 {'2' * 64}) by 'statistics'"
    assert adapted_text(step()) == f"{begin}: estimate +2.5 points, old domain +0.0"
    assert adapted_text(step(teacher="3" * 64, labels=40, forgotten=0.5)) == (
        f"{begin}, teacher {'3' * 64}, 40 labels: estimate +2.5 points, old domain -0.5"
    )
