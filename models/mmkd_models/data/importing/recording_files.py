"""The files of a recipe, put together to recordings by the parts of their paths, and what its table says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.cutting.labels import TableLine, read_table
from mmkd_models.data.importing.patterns import FoundFile, RecipeFolder, key_of, natural_key, parts_of
from mmkd_models.data.importing.recipe import ImportRecipe, refuse


@dataclass(frozen=True, kw_only=True)
class RecordingFiles:
    """The files of a recipe."""

    parts: tuple[str, ...]
    recordings: Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]]
    facts: Mapping[tuple[str, ...], Mapping[str, str]]
    counts: Mapping[str, int]
    total_bytes: int

    def read_twice(self, source: str, name: str) -> RecordingFiles:
        """Return the same files, and those of a source under another name too."""
        return replace(
            self,
            recordings={
                key: {**files, name: files[source]} if source in files else files
                for key, files in self.recordings.items()
            },
        )


def find_recordings(recipe: ImportRecipe, folder: RecipeFolder) -> RecordingFiles:
    """Look for the files. Raise DatasetError if a pattern has none, or the table does not fit them."""
    by_source: dict[str, list[FoundFile]] = {}
    problems: list[str] = []
    for number, source in enumerate(recipe.source):
        by_source[source.modality] = folder.files(source.files, key=f"source[{number}].files")
        if not by_source[source.modality]:
            problems.append(
                f"'source[{number}].files': expected files, found none at {folder.path / source.files}; correct the"
                " pattern"
            )
    refuse(folder.path, problems)
    named = [parts_of(source.files) for source in recipe.source]
    parts = tuple(name for name in named[0] if all(name in names for names in named))
    recordings: dict[tuple[str, ...], dict[str, list[FoundFile]]] = {}
    for modality, files in by_source.items():
        for file in files:
            recordings.setdefault(key_of(file, parts), {}).setdefault(modality, []).append(file)
    ordered = sorted(recordings, key=lambda key: natural_key("/".join(key)))
    return RecordingFiles(
        parts=parts,
        recordings={key: recordings[key] for key in ordered},
        facts=_facts_of(recipe, folder, parts, recordings) if recipe.labels.table else {},
        counts={modality: len(files) for modality, files in by_source.items()},
        total_bytes=sum(file.path.stat().st_size for files in by_source.values() for file in files),
    )


def _facts_of(
    recipe: ImportRecipe,
    folder: RecipeFolder,
    parts: Sequence[str],
    recordings: Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]],
) -> dict[tuple[str, ...], Mapping[str, str]]:
    """What the table of labels says of each recording. Raise DatasetError if it says nothing, or says it twice."""
    lines = read_table(folder, recipe.labels)
    found: dict[tuple[str, ...], TableLine] = {}
    by_file = {
        file.path.relative_to(folder.path).as_posix(): key
        for key, sources in recordings.items()
        for files in sources.values()
        for file in files
    }
    for line in lines:
        keys = [by_file[line.file]] if line.file in by_file else []
        if line.parts:
            keys = [key for key in recordings if line.parts.items() <= dict(zip(parts, key, strict=True)).items()]
        if not keys:
            told = ", ".join(f"{name} {value!r}" for name, value in line.parts.items()) or f"file {line.file!r}"
            raise DatasetError(f"{line.place}: expected a recording of {told}, found none; correct it, or remove it")
        for key in keys:
            if key in found:
                raise DatasetError(
                    f"{line.place}: expected each recording once, got again that of {found[key].place}; remove a line"
                )
            found[key] = line
    for key, sources in recordings.items():
        if key not in found:
            file = next(iter(sources.values()))[0].path
            raise DatasetError(
                f"{folder.path / recipe.labels.table}: expected a line for every recording, found none for {file};"
                " add it, or remove the file"
            )
    return {key: line.facts for key, line in found.items()}


def extra_columns(recipe: ImportRecipe, found: RecordingFiles) -> list[str]:
    """Return columns that are asked for, and are no part of the path and not in the table of labels."""
    labels = recipe.labels
    label_columns = [*labels.flags.values(), *([] if labels.task == "regression" else [labels.column])]
    wanted = [*label_columns, recipe.split.group, recipe.split.column, *recipe.windows.metadata]
    known = {*found.parts, *(name for facts in found.facts.values() for name in facts)}
    return list(dict.fromkeys(name for name in wanted if name and name not in known))
