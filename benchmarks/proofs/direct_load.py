"""Does mmkd-bench capacity agree with a direct load? The answer, then 90 % and 110 % of it, several times.

    python benchmarks/proofs/direct_load.py STUDENT.edge --rate 50 --deadline-ms 10 --repeats 5

On a machine that does nothing else: a neighbour that comes or goes between two of the measurements changes what the
device carries, and then both are right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmkd_bench.capacity import Question, measure_capacity, measure_load
from mmkd_bench.measuring.opening import Choice
from mmkd_report.documents.bench_others import CapacityReport
from proofs.script import parser_of


def line(report: CapacityReport, *, share: float, streams: int) -> str:
    """One direct load in words."""
    level = report.at_answer
    assert level is not None
    carried = sum(one.carried for one in report.launches)
    late = level.missed / level.due
    return (
        f"  {share:.0%}, {streams} streams: {'carried' if report.streams == streams else 'not carried'} "
        f"(in {carried} of {len(report.launches)} launches, {late:.2%} late)"
    )


def agreement(choice: Choice, question: Question, *, repeats: int, tell: Callable[[str], object]) -> int:
    """How many of the repeats agreed; `tell` gets a line for each measurement, as soon as it is over."""
    agreed = 0
    for number in range(repeats):
        answer = measure_capacity(choice, question)
        p999_us = answer.p999_us
        told = "unknown" if p999_us is None else f"{p999_us / 1e3:.1f} ms"
        tell(f"repeat {number + 1}: {answer.streams} streams, p99.9 {told}")
        verdicts = []
        for share in (0.9, 1.1):
            streams = max(1, round(share * answer.streams))
            report = measure_load(choice, question, streams)
            verdicts.append(report.streams == streams)
            tell(line(report, share=share, streams=streams))
        agreed += verdicts == [True, False]
    return agreed


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--deadline-ms", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    choice = Choice(bundle=str(arguments.bundle), backend=arguments.backend)
    question = Question(rate_hz=arguments.rate, deadline_ms=arguments.deadline_ms)
    agreed = agreement(choice, question, repeats=arguments.repeats, tell=partial(print, flush=True))
    print(f"{agreed} of {arguments.repeats} answers agreed with both loads")


if __name__ == "__main__":
    main()
