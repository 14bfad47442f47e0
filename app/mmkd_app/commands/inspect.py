"""`mmkd-inspect`: content of a file, differences of two, or reports of devices. Needs only the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Argument, Command, Option, run_plain
from mmkd_app.cli.run import loading, run_command

if TYPE_CHECKING:
    from mmkd_edge.backends.base import BackendName
    from mmkd_edge.bundle.manifest import Artifact, ModelEntry


def main() -> NoReturn:
    """Run `mmkd-inspect`."""
    run_command("mmkd-inspect", _run)


def _run(arguments: list[str]) -> None:
    epilog = "'mmkd-inspect fleet FOLDER' shows the devices whose mmkd-edge status --json is in a folder."
    run_plain("mmkd-inspect", arguments, [Command(function=inspect_, epilog=epilog)])


def inspect_(
    file: Annotated[Path, Argument("FILE", "A bundle, a checkpoint, an engine or its sidecar.")],
    other: Annotated[Path | None, Argument("OTHER", "A second file to compare it with.")] = None,
    *,
    selftest: Annotated[bool, Option("Also run every artifact of a bundle on its golden windows.")] = False,
    verify: Annotated[Path | None, Option("Refuse a bundle that no key in this folder signed.", metavar="KEYS")] = None,
    sbom: Annotated[
        bool, Option("Print the bill of materials of a bundle or a wheel (.whl), in CycloneDX JSON.")
    ] = False,
    json: Annotated[bool, Option("Print one JSON document.")] = False,
) -> None:
    """Show what is inside a bundle, a checkpoint or an engine, verified; or how two of them differ."""
    with loading("mmkd-inspect"):
        from mmkd_app.cli.show import json_text
        from mmkd_edge.errors import printable
        from mmkd_export.inspect.files import inspect_file
    if str(file) == "fleet" and other is not None:
        _show_fleet(other, as_json=json)
        return
    if other is not None:
        _show_differences(file, other, as_json=json)
        return
    if sbom:
        from mmkd_export.inspect.bill import make_bill, make_wheel_bill

        print(json_text((make_wheel_bill if file.suffix == ".whl" else make_bill)(file)))
        return
    facts = inspect_file(file)
    if verify is not None:
        from mmkd_edge.bundle.bundle import Bundle
        from mmkd_edge.install.keys import check_signed

        with Bundle.open(file) as bundle:
            facts["signature"] = f"by key {check_signed(bundle, verify)}, which is in {verify}"
    if selftest:
        facts |= selftest_facts(file)
    if json:
        print(json_text(facts, indent=2))
        return
    shown = {printable(name): printable(value) for name, value in facts.items()}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")
    print(_next_line(file, facts))


def _show_fleet(folder: Path, *, as_json: bool) -> None:
    from mmkd_app.cli.show import json_text
    from mmkd_edge.install.status import fleet_lines, read_fleet

    fleet = read_fleet(folder)
    print(json_text(fleet) if as_json else "\n".join(fleet_lines(fleet)))


def _show_differences(one: Path, other: Path, *, as_json: bool) -> None:
    from mmkd_app.cli.show import json_text
    from mmkd_edge.errors import printable
    from mmkd_export.inspect.files import differences, inspect_file

    differing = differences(inspect_file(one), inspect_file(other))
    if as_json:
        print(json_text(differing, indent=2))
        return
    for name, values in differing.items():
        print(printable(name))
        for path, value in zip((one, other), values, strict=True):
            print(f"  {path}: {'-' if value is None else printable(value)}")
    print(f"{len(differing)} facts differ" if differing else "the same")


def selftest_facts(path: Path) -> dict[str, str]:
    """Run every artifact of a bundle on its golden windows; return what each answered."""
    from mmkd_edge import EdgePredictor, UnavailableError
    from mmkd_edge.bundle.bundle import Bundle
    from mmkd_edge.bundle.manifest import fallback_order

    with Bundle.open(path) as bundle:
        first, *twins = fallback_order(bundle.manifest)[0]
    facts = {}
    for entry, artifact in [(student, each) for student in (first, *twins) for each in student.artifacts]:
        for number, backend in enumerate(_backends_for(artifact, first, is_twin=entry is not first)):
            suffix = f".{backend}" if number else "" if artifact.format == "onnx" else f".{artifact.format}"
            name = f"selftest.{artifact.precision}{suffix}"
            if entry is not first:
                name = f"{entry.name}.selftest.{artifact.precision}.{backend}"
            try:
                predictor = EdgePredictor.open(path, precision=artifact.precision, backend=backend)
            except UnavailableError as error:
                facts[name] = f"not run: {error}"
                continue
            with predictor:
                result = predictor.selftest()
                facts[name] = (
                    f"{result.windows} windows within {result.max_abs_error:.2g} (tolerance {result.tolerance:.2g}) "
                    f"in {predictor.info().backend_version}"
                )
    return facts


def _backends_for(artifact: Artifact, first: ModelEntry, *, is_twin: bool) -> list[BackendName]:
    """Return the judging backend, and GPU backends, whose kernels differ; for a twin those that lack the first."""
    from mmkd_edge.backends.base import BACKENDS, backend_for, lacking_members, why_absent

    able = [name for name, row in BACKENDS.items() if artifact.format in row.formats and not why_absent(name)]
    if is_twin:
        return [name for name in able if lacking_members(first, name)]
    on_gpu = [name for name in able if BACKENDS[name].on_gpu and not lacking_members(first, name)]
    return [backend_for(artifact.format), *on_gpu]


def _next_line(path: Path, facts: dict[str, str]) -> str:
    from mmkd_app.cli.run import shell_line

    kind = facts["kind"].replace(",", "").split()[0]
    if kind == "engine":
        program = "tensorrt_rtx" if facts["library"].startswith("tensorrt_rtx") else "trtexec"
        return f"next: {program} --loadEngine={shell_line(path.with_name(facts['engine'].partition(',')[0]))}"
    if kind == "bundle":
        return f"next: {shell_line('mmkd-bench', 'run', path)}"
    if kind == "student":
        return f"next: {shell_line('mmkd-export', path)}"
    return f"next: {shell_line('mmkd-distill', path, 'DATA', '--modality', 'NAME', '-o', 'student.ckpt')}"
