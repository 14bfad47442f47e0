"""The files of a recipe, put together to recordings by the parts of their paths, and each one's line in its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmkd_edge.errors import DatasetError
from mmkd_models.data.importing.cutting.labels import TableLine, read_table
from mmkd_models.data.importing.patterns import FoundFile, RecipeFolder, natural_key, parts_of
from mmkd_models.data.importing.recipe import ImportRecipe, refuse

_Recordings = Mapping[tuple[str, ...], Mapping[str, Sequence[FoundFile]]]


@dataclass(frozen=True, kw_only=True)
class RecordingFiles:
    """The files of a recipe.

    Attributes:
        recordings: by the values of their parts, the files of each source.
        facts: of each recording, by column of the table of labels.
    """

    parts: tuple[str, ...]
    recordings: _Recordings
    facts: Mapping[tuple[str, ...], Mapping[str, str]]
    counts: Mapping[str, int]
    total_bytes: int

    def first(self, source: str) -> FoundFile:
        """Return the first file of a source."""
        return next(files[source][0] for files in self.recordings.values() if source in files)


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
            key = tuple(file.parts[name] for name in parts)
            recordings.setdefault(key, {}).setdefault(modality, []).append(file)
    ordered = sorted(recordings, key=lambda key: natural_key("/".join(key)))
    return RecordingFiles(
        parts=parts,
        recordings={key: recordings[key] for key in ordered},
        facts=_table_facts(recipe, folder, parts, recordings) if recipe.labels.table else {},
        counts={modality: len(files) for modality, files in by_source.items()},
        total_bytes=sum(file.path.stat().st_size for files in by_source.values() for file in files),
    )


def _table_facts(
    recipe: ImportRecipe, folder: RecipeFolder, parts: Sequence[str], recordings: _Recordings
) -> dict[tuple[str, ...], Mapping[str, str]]:
    """The values of each recording in the table of labels. Raise DatasetError if it has no line, or two."""
    lines: dict[tuple[str, ...], TableLine] = {}
    by_file = {
        file.path.relative_to(folder.path).as_posix(): key
        for key, sources in recordings.items()
        for files in sources.values()
        for file in files
    }
    for line in read_table(folder, recipe.labels):
        keys = [by_file[line.file]] if line.file in by_file else []
        if line.parts:
            keys = [key for key in recordings if line.parts.items() <= dict(zip(parts, key, strict=True)).items()]
        if not keys:
            name = ", ".join(f"{name} {value!r}" for name, value in line.parts.items()) or f"file {line.file!r}"
            raise DatasetError(f"{line.place}: expected a recording of {name}, found none; correct it, or remove it")
        for key in keys:
            if key in lines:
                raise DatasetError(
                    f"{line.place}: expected each recording once, got again that of {lines[key].place}; remove a line"
                )
            lines[key] = line
    for key, sources in recordings.items():
        if key not in lines:
            file = next(iter(sources.values()))[0].path
            raise DatasetError(
                f"{folder.path / recipe.labels.table}: expected a line for every recording, found none for {file};"
                " add it, or remove the file"
            )
    return {key: line.facts for key, line in lines.items()}


def extra_columns(recipe: ImportRecipe, files: RecordingFiles) -> list[str]:
    """Return columns that the recipe needs, and that are no part of the path and not in the table of labels."""
    labels = recipe.labels
    label_columns = [*labels.flags.values(), *([] if labels.task == "regression" else [labels.column])]
    names = [*label_columns, recipe.split.group, recipe.split.column, *recipe.windows.metadata]
    known = {*files.parts, *(name for facts in files.facts.values() for name in facts)}
    return list(dict.fromkeys(name for name in names if name and name not in known))
