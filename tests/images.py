"""A Dockerfile as a machine without Docker reads it: its instructions, and the wheel of what it copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Image:
    """One Dockerfile of the checkout."""

    path: Path

    def instructions(self) -> list[tuple[str, str]]:
        """The instructions with their arguments, continuation lines joined, comments left out."""
        text = self.path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
        pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
        return [(name, arguments.strip()) for name, _, arguments in pairs]

    def arguments_of(self, name: str) -> list[str]:
        """The arguments of every instruction of that name."""
        return [arguments for instruction, arguments in self.instructions() if instruction == name]

    def copy_of_the_context(self, folder: Path) -> Path:
        """What the COPY instructions bring from the checkout, and nothing else."""
        for arguments in self.arguments_of("COPY"):
            *sources, target = arguments.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
                elif not source.startswith(("-", "/")):
                    shutil.copy(ROOT / source, folder / target)
        return folder

    def wheel(self, folder: Path) -> Path:
        """The project's wheel, built in a folder from what the image gets."""
        context = folder / "context"
        context.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--wheel-dir", folder, self.copy_of_the_context(context)], check=True)
        (built,) = folder.glob("*.whl")
        return built
