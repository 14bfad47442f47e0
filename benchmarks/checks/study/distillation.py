"""Compare methods of distillation on several sets, in stages (`make study`). Finished trainings are not repeated.

python benchmarks/checks/study/distillation.py mydata:gyro mydata:audio --budget-hours 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checks.study.files import read_seeds, read_sizes
from checks.study.pool import pooled_results, results_page
from checks.study.stages import Plan, Portion, measure_sizes, run_stages, sensor_from_text, with_races
from mmkd_app.cli.progress import progress_lines
from mmkd_app.experiments import latency_meter
from mmkd_edge.bundle.files import write_file
from mmkd_models.experiments.runs import Progress

LATENCY_S = 4.0


def main() -> None:
    """Train what is missing within the budget, then write the page of all results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="DIR:MODALITY[:TEACHER]",
        help="dataset directory, the student's sensor, and the teacher's size (small)",
    )
    parser.add_argument("--budget-hours", type=float, help="begin no training after this time")
    parser.add_argument("--folds", type=int, default=5, help="of every set in stage 2")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--steps", type=int, help="training steps of students")
    parser.add_argument("--teacher-steps", type=int, help="training steps of teachers")
    parser.add_argument(
        "--whole-groups",
        action="store_true",
        help="few labels are those of about a third of the groups, not a tenth of the windows",
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="every student is the winner of a race, and a committee teaches; name another --build",
    )
    parser.add_argument("--latency", action="store_true", help="measure latencies here; let nothing else run meanwhile")
    parser.add_argument("--build", type=Path, default=Path("build/study"), help="folder of the trainings")
    parser.add_argument("--page", type=Path, default=Path("build/study/distillation.md"), help="page to write")
    arguments = parser.parse_args()
    if arguments.sets:
        train(arguments)
    write_page(arguments.build, arguments.page)


def train(arguments: argparse.Namespace) -> None:
    """Run the stages; print each portion on stderr."""
    plan = Plan(
        sets=tuple(map(sensor_from_text, arguments.sets)),
        seeds=arguments.folds,
        workers=arguments.workers,
        steps=arguments.steps,
        teacher_steps=arguments.teacher_steps,
        whole_groups=arguments.whole_groups,
    )
    plan = with_races(plan) if arguments.choose else plan

    def show_portion(portion: Portion) -> None:
        labelled = "a third of the groups" if portion.whole_groups else f"{portion.label_fraction:.0%}"
        labels = f"{labelled} labelled, {portion.seeds} folds"
        sys.stderr.write(f"{portion.sensor.path} {portion.sensor.modality}, {labels}: {', '.join(portion.methods)}\n")

    with progress_lines() as show:
        done = run_stages(
            plan,
            build=arguments.build,
            budget_hours=arguments.budget_hours,
            on_portion=show_portion,
            progress=Progress(show=show),
        )
    if arguments.latency:
        measure_sizes(plan, build=arguments.build, measure_latency=latency_meter(LATENCY_S))
    sys.stderr.write("all stages are done\n" if done else "the time is used up; the same command continues\n")


def write_page(build: Path, page: Path) -> None:
    """Write the page of all results."""
    results = read_seeds(build)
    if not results:
        sys.exit(f"{build}: no results yet; name sets, or allow more time")
    text = results_page(pooled_results(results, read_sizes(build)))
    write_file(page, f"# Methods of distillation, measured\n\n{text}".encode())
    print(f"wrote {page} from {len(results)} folds")


if __name__ == "__main__":
    main()
