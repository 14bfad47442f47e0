"""How bash, zsh and fish are told to complete our commands: a script for each, and where it is put.

Every script asks `mmkd --complete` beside the command that is typed, so that a script stays true when commands change.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from mmkd_edge.bundle.files import write_file
from mmkd_edge.errors import UsageError

Shell = Literal["bash", "zsh", "fish"]
SHELLS: Sequence[Shell] = get_args(Shell)

_BASH = """\
_mmkd() {
    local word
    COMPREPLY=()
    while IFS=$'\\t' read -r word _; do
        COMPREPLY+=("$word")
    done < <("${1%mmkd*}mmkd" --complete -- "${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null)
}
complete -o default -F _mmkd NAMES
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_mmkd() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]%mmkd*}mmkd" --complete -- "${(@)words[1,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line//:/\\\\:}/$'\\t'/:}")
    done
    if (( $#found )); then _describe mmkd found; else _files; fi
}
compdef _mmkd NAMES
"""
_FISH = """\
function __mmkd
    set -l words (commandline -opc)
    set -l program (string replace -r 'mmkd[^/]*$' mmkd -- $words[1])
    $program --complete -- $words (commandline -ct) 2>/dev/null
end
for name in NAMES
    complete -c $name -a '(__mmkd)'
end
"""


def script_of(shell: Shell, names: Sequence[str]) -> str:
    """The script that makes a shell complete these commands.

    Args:
        shell: which one.
        names: the commands, as they are typed.
    """
    match shell:
        case "bash":
            text = _BASH
        case "zsh":
            text = _ZSH
        case "fish":
            text = _FISH
    return text.replace("NAMES", " ".join(names))


def shell_named(name: str | None) -> Shell:
    """The shell of that name; of None the one that `SHELL` names.

    Raises:
        UsageError: it is none that is known here.
    """
    asked = os.environ.get("SHELL", "") if name is None else name
    for shell in SHELLS:
        if shell == Path(asked).name:
            return shell
    where = f"SHELL={asked}" if name is None else repr(name)
    raise UsageError(f"{where}: expected a shell that can be completed ({', '.join(SHELLS)}); name one of them")


def install_script(shell: Shell, names: Sequence[str]) -> tuple[Path, Path | None]:
    """Writes a shell's script where the shell, or a line at the end of its start file, reads it.

    Done again it writes the script anew and leaves the start file alone.

    Returns:
        The script, and the start file that reads it; fish needs none.

    Raises:
        OSError: a file cannot be written.
    """
    text = script_of(shell, names).encode()
    if shell == "fish":
        script = _xdg("XDG_CONFIG_HOME", ".config") / "fish" / "conf.d" / "mmkd.fish"
        start = None
    else:
        script = _xdg("XDG_DATA_HOME", ".local/share") / "mmkd-edge" / f"completion.{shell}"
        start = (
            Path.home() / ".bashrc" if shell == "bash" else Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc"
        )
    script.parent.mkdir(parents=True, exist_ok=True)
    write_file(script, text)
    if start is not None:
        _add_line(start, f"source {shlex.quote(str(script))}")
    return script, start


def _xdg(variable: str, otherwise: str) -> Path:
    """A folder of the XDG base directories, whose specification has relative paths ignored."""
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / otherwise


def _add_line(path: Path, line: str) -> None:
    before = path.read_bytes() if path.exists() else b""
    if line.encode() not in before.splitlines():
        end = b"" if not before or before.endswith(b"\n") else b"\n"
        write_file(path, before + end + line.encode() + b"\n")
