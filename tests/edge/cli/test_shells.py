"""The scripts that shells read, and the files they are put into."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd_edge.cli.shells import install_script, script_of, shell_named
from mmkd_edge.errors import UsageError

NAMES = ["mmkd", "mmkd-run"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_bash_reads_the_script_by_one_line_however_often_it_is_installed(home: Path) -> None:
    (home / ".bashrc").write_text("alias ll='ls -l'")
    script = home / ".local" / "share" / "mmkd-edge" / "completion.bash"
    for _ in range(2):
        assert install_script("bash", NAMES) == (script, home / ".bashrc")
    assert (home / ".bashrc").read_text() == f"alias ll='ls -l'\nsource {script}\n"
    assert script.read_text() == script_of("bash", NAMES)
    assert script.read_text().endswith("complete -o default -F _mmkd mmkd mmkd-run\n")


def test_zsh_and_fish_have_their_own_places(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZDOTDIR", str(home / "z"))
    (home / "z").mkdir()
    script = home / ".local" / "share" / "mmkd-edge" / "completion.zsh"
    assert install_script("zsh", NAMES) == (script, home / "z" / ".zshrc")
    assert (home / "z" / ".zshrc").read_text() == f"source {script}\n"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "c"))
    assert install_script("fish", NAMES) == (home / "c" / "fish" / "conf.d" / "mmkd.fish", None)


def test_the_shell_is_the_one_that_is_named_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell_named("fish") == "fish"
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert shell_named(None) == "zsh"
    monkeypatch.setenv("SHELL", "/bin/dash")
    with pytest.raises(UsageError) as refused:
        shell_named(None)
    advice = "expected a shell that can be completed (bash, zsh, fish); name one of them"
    assert str(refused.value) == f"SHELL=/bin/dash: {advice}"
    with pytest.raises(UsageError) as refused:
        shell_named("tcsh")
    assert str(refused.value) == f"'tcsh': {advice}"
