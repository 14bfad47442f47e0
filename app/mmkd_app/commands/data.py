"""`mmkd-data`: recipe, import, check, describe, report, tasks, reference, list."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import check_page, run_command, sensor_choice, shell_line
from mmkd_app.cli.show import json_text, plain_table, say, show_table
from mmkd_documents.data import ChannelFacts, Finding, SplitFacts
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.reference import write_reference
from mmkd_edge.errors import DatasetError, UsageError
from mmkd_edge.machine import require_modules
from mmkd_edge.outputs import check_file, lock_output
from mmkd_models.data.checking.findings import check_dataset, describe_dataset, headline
from mmkd_models.data.dataset import locate_dataset, open_dataset, shipped_dataset, shipped_names
from mmkd_models.data.for_devices import measure_reference
from mmkd_models.data.importing.kept_windows import kept_tasks, write_tasks
from mmkd_models.data.importing.window_files import add_labels, import_windows
from mmkd_models.data.labels import WRITE_GROUPS
from mmkd_models.data.spec import SPLIT_NAMES, read_dataset_spec
from mmkd_models.data.writer import check_absent

if TYPE_CHECKING:
    import typer


_Directory = Annotated[Path, Argument("DIR", "A dataset directory.")]
_Json = Annotated[bool, Option("Print one JSON document.", ("--json",))]


def main() -> NoReturn:
    """Run `mmkd-data`."""
    run_command("mmkd-data", run_data, needs=("typer", "rich"), extra="train")


def run_data(arguments: Sequence[str]) -> None:
    """Run `mmkd-data`."""
    commands = (
        Command(function=recipe),
        Command(function=import_, name="import"),
        Command(function=check),
        Command(function=describe),
        Command(function=report),
        Command(function=tasks),
        Command(function=reference),
        Command(function=list_, name="list"),
    )
    run_line("mmkd-data", arguments, commands)


def recipe(
    folder: Annotated[Path, Argument("FOLDER", "A folder of logs.")],
    *,
    out: Annotated[
        Path | None, Option("The recipe to write; in or above the folder.", ("-o", "--out"), "FILE.toml")
    ] = None,
) -> None:
    """Draft a recipe by looking into a folder of logs; questions are at its top."""
    require_modules(("polars",), by="mmkd-data recipe", extra="import")
    from mmkd_models.data.importing.draft import draft_recipe

    if out is None:
        print(draft_recipe(folder), end="")
        return
    check_file(out)
    if out.exists():
        raise UsageError(f"{out}: already exists; choose another name")
    inside, beside = folder.resolve(), out.parent.resolve()
    if not inside.is_relative_to(beside):
        raise UsageError(
            f"-o {out}: expected a recipe in the folder of the logs, {folder}, or in one above it; write -o "
            f"{folder / out.name}"
        )
    write_file(out, draft_recipe(folder, prefix=inside.relative_to(beside).as_posix()).encode())
    print(f"wrote {out}; answer the questions at its top; next: {shell_line('mmkd-data', 'import', out, '--check')}")


def import_(
    context: typer.Context,
    *,
    file: Annotated[
        Path,
        Argument("FILE", "A recipe (.toml), windows in the interchange form (.npz), or labels of kept ones (.json)."),
    ],
    out: Annotated[Path | None, Option("The directory to make.", ("-o", "--out"), "DIR")] = None,
    try_only: Annotated[
        bool, Option("Show what a recipe would make and every problem; write nothing.", ("--check",))
    ] = False,
    allow_outside: Annotated[
        list[Path] | None, Option("Let the recipe read this folder outside its own. Repeatable.", metavar="FOLDER")
    ] = None,
    max_gb: Annotated[
        float | None,
        Option("Maximum that a recipe may write; default 256 MiB, or 100 times its recordings.", metavar="GB"),
    ] = None,
    add_to: Annotated[
        Path | None,
        Option("Write this dataset with the labels (.json) too; their other sensors are missing.", metavar="DATA"),
    ] = None,
    per_group: Annotated[str, Option("Modalities to z-score per group, separated by commas.", metavar="NAMES")] = "",
    name: Annotated[str | None, Option("Name of the dataset; by default that of the file.")] = None,
    source: Annotated[str, Option("Where the measurements come from.")] = "",
    licence: Annotated[str, Option("What may be done with them.")] = "",
    target: Annotated[
        str | None, Option("Make a regression of this one of the file's targets, not classes of y.", metavar="NAME")
    ] = None,
    unit: Annotated[str, Option("Unit of --target.")] = "",
    normal: Annotated[
        str | None, Option("Take this one of the file's classes as normal running, others as faults.", metavar="NAME")
    ] = None,
) -> None:
    """Read recordings by a recipe (.toml), or an interchange file (.npz), and write a dataset directory."""
    if file.suffix == ".toml":
        if any([per_group, name, source, licence, target, unit, normal, add_to]):
            raise UsageError(f"{file}: the options for .npz files cannot be combined with a recipe; leave them out")
        from mmkd_app.training.recipes import run_recipe

        made = None if try_only else _require_out(out)
        if made is not None:
            check_absent(made)
            context.with_resource(lock_output(made))
        for line in run_recipe(file, made, outside=allow_outside or (), max_gb=max_gb):
            print(line)
        if made is None:
            print(f"nothing was written; next: {shell_line('mmkd-data', 'import', file, '-o', 'DIR')}")
        else:
            print(f"wrote {made}; next: {shell_line('mmkd-data', 'check', made)}")
        return
    check_windows_file(file)
    if allow_outside or max_gb is not None:
        raise UsageError(f"--allow-outside, --max-gb: expected a recipe (.toml), got {file}; leave the options out")
    if try_only:
        raise UsageError(f"--check: expected a recipe (.toml), got {file}; leave the option out")
    is_labels = file.suffix == ".json"
    if add_to is not None and (not is_labels or per_group or source or licence or normal):
        raise UsageError(
            f"--add-to {add_to}: expected labels of kept windows (.json), whose facts are those of the dataset, got"
            f" {file}; leave the other options out"
        )
    if is_labels and (target is not None or unit):
        raise UsageError(f"--target, --unit: expected windows with numbers (.npz), got {file}; leave them out")
    out = _require_out(out)
    check_absent(out)
    context.with_resource(lock_output(out, needs_bytes=_unpacked_bytes(file)))
    say(f"reading {file}")
    names, notes = [part.strip() for part in per_group.split(",") if part.strip()], list[str]()
    if add_to is not None:
        dataset, added = add_labels(open_dataset(add_to), file, out, name=name)
        print(_counts_line(f"added to {add_to}", added))
    else:
        dataset, form = import_windows(
            file,
            out,
            name=name,
            per_group=names,
            source=source,
            licence=licence,
            target=target,
            unit=unit,
            normal=normal,
        )
        notes = [f"{sensor}: infinite values that became missing (NaN): {n}" for sensor, n in form.infinite.items()]
        notes += [f"left out, no part of a dataset: {', '.join(form.left_out)}"] if form.left_out else []
    counts = _counts_line(dataset.spec.name, dataset.spec.splits)
    print("\n".join([counts, *notes, f"wrote {out}; next: {shell_line('mmkd-data', 'check', out)}"]))


def _unpacked_bytes(file: Path) -> int:
    if not (file.is_file() and zipfile.is_zipfile(file)):
        return 0
    with zipfile.ZipFile(file) as archive:
        return sum(member.file_size for member in archive.infolist())


def _counts_line(what: str, counts: Mapping[str, int]) -> str:
    splits = ", ".join(f"{split} {counts[split]}" for split in SPLIT_NAMES)
    return f"{what}: {sum(counts.values())} windows ({splits})"


def check_windows_file(file: Path) -> None:
    """Raise UsageError for a folder or a log."""
    from mmkd_models.data.importing.readers.formats import find_format

    folder = file if file.is_dir() else file.parent
    if not file.is_dir() and (not file.is_file() or find_format(file) in (None, "npz")):
        return
    got = "a folder" if file.is_dir() else "a log"
    if got == "a log" and any(
        other.is_file() and not other.samefile(file) for other in folder.parent.glob(f"*/{file.name}")
    ):
        folder = folder.parent  # that of all machines
    of = " of the folder that holds all recordings" if got == "a log" else ""
    draft = shell_line("mmkd-data", "recipe", folder, "-o", folder / "recipe.toml")
    raise UsageError(f"{file}: expected a recipe (.toml) or windows (.npz), got {got}; draft a recipe{of}: {draft}")


def _require_out(out: Path | None) -> Path:
    if out is None:
        raise UsageError("-o: expected the directory to make, got none; name one")
    return out


def check(directory: _Directory, as_json: _Json = False) -> None:
    """Check every rule of a dataset directory; reads every value once."""
    say(f"checking {directory}")
    try:
        report = check_dataset(directory)
    except DatasetError as error:
        if as_json:
            print(json_text({"dataset": str(directory), "ok": False, "error": str(error)}))
        raise
    if as_json:
        print(json_text({"dataset": str(directory), "ok": True, "findings": report.findings}))
        return
    windows = report.windows
    print(headline(windows))
    _print_findings(report.findings)
    has_labels = bool(windows.labelled[windows.splits == 0].any())
    count = sum(finding.level == "problem" for finding in report.findings)
    if count and has_labels:
        makes = "1 problem makes" if count == 1 else f"{count} problems make"
        print(f"{makes} scores wrong; correct {'it' if count == 1 else 'them'} and import again")
    else:
        print(f"{directory} keeps every rule; next: {_next_command(directory, has_labels=has_labels)}")


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{finding.level}: {finding.kind}: {finding.text}")
    if not findings:
        print("no problems found")


def _next_command(directory: Path, *, has_labels: bool) -> str:
    spec = read_dataset_spec(locate_dataset(directory))
    if has_labels and spec.task.kind == "normal":
        sensor, hint = sensor_choice([modality.name for modality in spec.modalities], directory, is_normal=True)
        return shell_line("mmkd-train", "student", directory, "--modality", sensor, "-o", "student.ckpt") + hint
    if has_labels:
        return shell_line("mmkd-train", "teacher", directory, "-o", "teacher.ckpt")
    adapt = shell_line("mmkd-adapt", "student.ckpt", directory, "-o", "adapted.ckpt")
    return f"{adapt} with a student that was trained elsewhere; to train here, label windows of train first"


def describe(directory: _Directory, as_json: _Json = False) -> None:
    """Show modalities, rates, windows, classes, missing values, groups and folds."""
    say(f"reading {directory}")
    dataset = open_dataset(directory)
    facts = describe_dataset(dataset)
    if as_json:
        print(json_text(facts))
        return
    splits: list[SplitFacts] = facts["splits"]
    described: list[ChannelFacts] = facts["channels"]
    print(headline(dataset.everything()))
    headings = ("modality", "kind", "channels", "unit", "Hz", "window", "samples", "values", "normalise")
    modalities = plain_table(headings, left=("kind", "channels", "unit", "samples", "values", "normalise"))
    counts = plain_table(["", *SPLIT_NAMES])
    for name in splits[0].classes:
        counts.add_row(name, *(str(split.classes[name]) for split in splits))
    counts.add_row("unlabelled", *(str(split.unlabelled) for split in splits))
    counts.add_row("all", *(str(split.windows) for split in splits))
    if any(split.groups for split in splits):
        counts.add_row("groups", *(str(split.groups) for split in splits))
    for spec in dataset.spec.modalities:
        channels = [channel for channel in described if channel.modality == spec.name]
        lows = [channel.low for channel in channels if channel.low is not None]
        highs = [channel.high for channel in channels if channel.high is not None]
        modalities.add_row(
            spec.name,
            spec.kind,
            " ".join(spec.channels),
            spec.unit or "-",
            f"{spec.rate_hz:g}",
            f"{spec.duration_s:g} s",
            f"{spec.samples} of {spec.height}x{spec.width}" if spec.kind == "video" else str(spec.samples),
            f"{min(lows):.3g} to {max(highs):.3g}" if lows else "no value",
            spec.normalise.replace("_", " "),
        )
        fractions = (sum(channel.missing[name] for channel in channels) / len(channels) for name in SPLIT_NAMES)
        counts.add_row(
            f"{spec.name} missing", *(f"{100 * fraction:.1f} %" if fraction else "0" for fraction in fractions)
        )
    show_table(modalities)
    show_table(counts)
    if not splits[0].groups:
        print(f"figures are of {facts['split'].judged_on}; {WRITE_GROUPS}")
    lines = {
        "derived sensors": ", ".join(facts["derived"]),
        "windows by fold": ", ".join(f"{name}: {count}" for name, count in facts["folds"].items()),
        "windows are cut from recordings": f"one every {facts['hop_s']:g} s" if facts["hop_s"] else "",
        "metadata": ", ".join(f"{name} ({count})" for name, count in facts["metadata"].items()),
        "windows start": facts["times"] and f"from {facts['times']}",
        **{name: facts[name] for name in ("source", "licence", "sha256")},
    }
    for title, text in lines.items():
        if text:
            print(f"{title}: {text}")
    print(f"next: {_next_command(directory, has_labels=splits[0].unlabelled < splits[0].windows)}")


def report(
    directory: _Directory,
    *,
    out: Annotated[Path | None, Option("Also write one self-contained page.", ("-o", "--out"), "FILE.html")] = None,
    label_next: Annotated[
        Path | None,
        Option(
            "Write up to fifty windows worth a label, as intervals or as tasks of Label Studio.",
            metavar="FILE.csv|FILE.json",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Look for leaks, gaps, dead channels and wrong labels, and for the sensor that is enough."""
    require_modules(("sklearn",), by="mmkd-data report", extra="train")
    from mmkd_models.data_report.report import label_csv, label_tasks, report_on

    if out is not None:
        check_page(out, extra="train")
    if label_next is not None:
        check_file(label_next)
    dataset = open_dataset(directory)
    document = report_on(dataset, on_part=say)
    train = document.splits[0]
    if label_next is not None:
        text = label_csv(document.to_label, train)
        if label_next.suffix == ".json":
            write_tasks(label_next, *label_tasks(document.to_label, dataset.split("train")))
        else:
            write_file(label_next, text.encode())
    if out is not None:
        from mmkd_app.pages.data import render_data_report
        from mmkd_app.pages.page import write_page

        write_page(out, render_data_report(document))
    if as_json:
        print(json_text(document))
        return
    print(f"{document.name}: {document.windows} windows, {document.groups or 'no'} groups")
    _print_findings(document.findings)
    for text in document.not_judged:
        print(f"not judged: {text}")
    headings = ["extra-trees recognise", "from", "balanced accuracy", "99 % interval", "chance"]
    table = plain_table(headings, left=("from",))
    for probe in document.probes:
        interval, sensor = f"{probe.low:.1%} to {probe.high:.1%}", probe.modality or "all sensors"
        table.add_row(probe.target, sensor, f"{probe.score:.1%}", interval, f"{probe.chance:.1%}")
    if document.probes:
        show_table(table)
    wrote = " and ".join(str(path) for path in (out, label_next) if path is not None)
    following = _next_command(directory, has_labels=train.unlabelled < train.windows)
    print(f"{f'wrote {wrote}; ' if wrote else ''}next: {following}")


def tasks(
    folder: Annotated[Path, Argument("FOLDER", "Windows that mmkd-run --keep-uncertain kept.")],
    *,
    out: Annotated[Path, Option("The tasks to write.", ("-o", "--out"), "FILE.json")] = Path("tasks.json"),
) -> None:
    """Write kept windows as tasks of Label Studio, and its labelling interface beside them."""
    check_file(out)
    write_tasks(out, *kept_tasks(folder))
    print(f"wrote {out} and {out.with_suffix('.xml')}; label them, and export JSON to {folder}/export.json")
    print(f"next: {shell_line('mmkd-data', 'import', folder / 'export.json', '-o', 'labelled')}")


def reference(
    directory: _Directory,
    *,
    modality: Annotated[str, Option("A modality that is normalised per group.", metavar="NAME")],
    out: Annotated[Path, Option("The reference file to write.", ("-o", "--out"), "FILE")],
    group: Annotated[str | None, Option("Group whose windows are measured; may be left out if there is one.")] = None,
    seconds: Annotated[float | None, Option("Use the first windows that cover this time.")] = None,
) -> None:
    """Measure the reference that a device needs for a modality that is normalised per group."""
    check_file(out)
    dataset = open_dataset(directory)
    measured = measure_reference(dataset, modality=modality, group=group, seconds=seconds)
    write_reference(out, measured.reference)
    spec = dataset.spec.modality(modality)
    for channel, mean, std in zip(spec.channels, measured.reference.mean, measured.reference.std, strict=True):
        print(f"{channel}: mean {mean:g}, standard deviation {std:g} {spec.unit}".rstrip())
    print(f"measured on {measured.windows} of the {measured.windows_in_group} windows of group {measured.group}")
    print(f"wrote {out}; next: EdgePredictor.open(BUNDLE, reference={str(out)!r})")


def list_(as_json: _Json = False) -> None:
    """List the datasets that are part of this package, with their paths."""
    paths = {name: str(shipped_dataset(name)) for name in shipped_names()}
    if as_json:
        print(json_text(paths))
        return
    for name, path in paths.items():
        print(f"{name}  {path}")
    print(f"next: {shell_line('mmkd-data', 'describe', shipped_dataset())}")
