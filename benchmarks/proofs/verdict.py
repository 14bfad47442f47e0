"""How often is the verdict of `mmkd-bench compare` right? Two runs of one build against a build slowed by 15 %.

    python benchmarks/proofs/verdict.py STUDENT.edge --repeats 100 --log verdicts.jsonl

The slow build is the same student with a chain of small matrix products added to its graph, its length fitted so that
`predict` takes 15 % longer. Every repeat measures one run of each build, in changing order, and asks for two verdicts:
this run of the build against its last one, and the slow build's run against it. Repeats are appended to the log, so
the experiment can be interrupted and continued; the log's figures are printed at the end. Needs `mmkd-edge[export]`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mmkd_bench.compare import DEFAULT_CONDITIONS, compare, parse_conditions
from mmkd_bench.measuring.opening import Choice
from mmkd_bench.report_file import decode_report, encode_report
from mmkd_bench.run import measure_bundle
from mmkd_edge.bundle.bundle import Bundle, write_bundle
from mmkd_report.documents.bench import BenchReport, Comparison, Settings
from proofs.script import parser_of

SLOWER_BY = 0.15
FITTED_WITHIN = 0.01
WIDTH = 24


def chained_model(model: bytes, links: int) -> bytes:
    """The same answers after `links` more matrix products, which depend on the input and end in a zero."""
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.load_from_string(model)
    values = graph.graph.input[0].name
    square = np.eye(WIDTH, dtype=np.float32)
    constants: dict[str, Any] = {
        "chain_square": square,
        "chain_zero": np.zeros(1, dtype=np.float32),
        "chain_start": np.array([0], dtype=np.int64),
        "chain_end": np.array([WIDTH], dtype=np.int64),
        "chain_axis": np.array([1], dtype=np.int64),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    nodes = [
        helper.make_node("Flatten", [values], ["chain_flat"]),
        helper.make_node("Slice", ["chain_flat", "chain_start", "chain_end", "chain_axis"], ["chain_0"]),
    ]
    for number in range(links):
        nodes += [
            helper.make_node("MatMul", [f"chain_{number}", "chain_square"], [f"chain_product_{number}"]),
            helper.make_node("Tanh", [f"chain_product_{number}"], [f"chain_{number + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceSum", [f"chain_{links}"], ["chain_sum"], keepdims=0),
        helper.make_node("Mul", ["chain_sum", "chain_zero"], ["chain_nothing"]),
        helper.make_node("Add", ["chain_logits", "chain_nothing"], ["logits"]),
    ]
    for node in graph.graph.node:
        node.input[:] = ["chain_logits" if name == "logits" else name for name in node.input]
        node.output[:] = ["chain_logits" if name == "logits" else name for name in node.output]
    graph.graph.node.extend(nodes)
    serialised: bytes = graph.SerializeToString()
    return serialised


def slowed_bundle(bundle: Path, target: Path, links: int) -> None:
    """Write the bundle with its graph made longer."""
    with Bundle.open(bundle) as opened:
        entry = opened.manifest.models[0]
        artifact = next(artifact for artifact in entry.artifacts if artifact.precision == "fp32")
        names = [file.file for file in (entry.golden, *opened.manifest.files)]
        names += [other.file for other in entry.artifacts if other is not artifact]
        members = {name: opened.read(name) for name in names}
        model = chained_model(opened.read(artifact.file), links)
        longer = msgspec.structs.replace(artifact, sha256=hashlib.sha256(model).hexdigest(), size_bytes=len(model))
        artifacts = tuple(longer if other is artifact else other for other in entry.artifacts)
        slow_entry = msgspec.structs.replace(entry, artifacts=artifacts)
        models = (slow_entry, *opened.manifest.models[1:])
        manifest = msgspec.structs.replace(opened.manifest, models=models)
    write_bundle(target, manifest=manifest, members={**members, artifact.file: model})


def p50_us(choice: Choice) -> float:
    """Median latency in a short run of its own."""
    report = measure_bundle(choice, Settings(launches=3, duration_s=3.0), energy=False).report
    return float(np.median([window.p50_us for launch in report.launches for window in launch.windows]))


def fitted_slow_bundle(choice: Choice, target: Path) -> float:
    """Write a bundle whose `predict` takes 15 % longer; gives the share by which it does."""
    links = 40
    for _ in range(8):
        slowed_bundle(Path(choice.bundle), target, links)
        ratios = [p50_us(replace(choice, bundle=str(target))) / p50_us(choice) for _ in range(3)]
        share = float(np.median(ratios)) - 1
        print(f"{links} links: predict takes {share:+.1%}", flush=True)
        if abs(share - SLOWER_BY) <= FITTED_WITHIN:
            return share
        links = max(1, round(links * SLOWER_BY / share)) if share > 0 else 2 * links
    raise SystemExit("the chain could not be fitted: the machine is too restless")


def verdict(comparison: Comparison) -> dict[str, Any]:
    """What the log keeps of one comparison."""
    changes = {change.quantity: change for change in comparison.changes}
    return {
        "failed": bool(comparison.failed),
        "verdict": comparison.verdict,
        "p90_judged": changes["p90"].judged,
        **{name: [changes[name].change, changes[name].low, changes[name].high] for name in ("p50", "p90")},
    }


def repeat(
    builds: dict[str, Choice], last: BenchReport, settings: Settings, *, slow_first: bool
) -> tuple[Any, BenchReport]:
    """One run of each build and the two verdicts."""
    conditions = parse_conditions(DEFAULT_CONDITIONS)
    runs = {}
    for name in ("slow", "same") if slow_first else ("same", "slow"):
        runs[name] = measure_bundle(builds[name], settings).report
    others = float(np.median([launch.interference.others_share or 0.0 for launch in runs["same"].launches]))
    entry = {
        "same": verdict(compare(last, runs["same"], conditions=conditions)),
        "slow": verdict(compare(runs["same"], runs["slow"], conditions=conditions)),
        "others_share": others,
    }
    return entry, runs["same"]


def summary(log: Path) -> str:
    """The figures of the log."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    equal = sum(not entry["same"]["failed"] for entry in entries)
    caught = sum(entry["slow"]["failed"] for entry in entries)
    changes = [abs(entry["same"]["p50"][0]) for entry in entries]
    return (
        f"{equal} of {len(entries)} comparisons of one build with itself passed; "
        f"{caught} of {len(entries)} slowed builds were caught; "
        f"p50 of one build moved by {np.median(changes):.1%} at the median and {max(changes):.1%} at most; "
        f"other processes used {np.median([entry['others_share'] for entry in entries]):.0%} of a core at the median; "
        f"p90 was judged as well in {sum(entry['same']['p90_judged'] for entry in entries)} comparisons of one build"
    )


def main() -> None:
    """Run the experiment."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--duration-s", type=float, default=10.0, help="measured seconds of one run")
    parser.add_argument("--log", type=Path, default=Path("verdicts.jsonl"))
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--slow", type=Path, help="a slow build that an earlier start wrote; written where absent")
    arguments = parser.parse_args()
    settings = Settings(duration_s=arguments.duration_s)
    build = Choice(bundle=str(arguments.bundle), backend=arguments.backend)
    with tempfile.TemporaryDirectory() as folder:
        slow = arguments.slow or Path(folder) / "slow.edge"
        if not slow.exists():
            fitted_slow_bundle(build, slow)
        builds = {"same": build, "slow": replace(build, bundle=str(slow))}
        state = arguments.log.with_suffix(".last.json")
        done = len(arguments.log.read_text().splitlines()) if arguments.log.exists() else 0
        if done and state.exists():
            last = decode_report(state.read_bytes(), where=str(state))
        else:
            last = measure_bundle(build, settings).report
        for number in range(done, arguments.repeats):
            entry, last = repeat(builds, last, settings, slow_first=number % 2 == 1)
            with arguments.log.open("a") as log:
                log.write(json.dumps(entry) + "\n")
            state.write_bytes(encode_report(last))
            print(f"{number + 1}: same {entry['same']}, slow {entry['slow']}", flush=True)
    print(summary(arguments.log))


if __name__ == "__main__":
    main()
