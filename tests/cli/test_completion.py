"""Shell completion with real shells, as far as they are installed: right, quiet, and of the installed command."""

import shutil
import subprocess
import sys

import pytest

from tests.cli.commands import CONFIGSVC, DEADLINE_S, environ, run

BASH = """
eval "$(configsvc --show-completion)"
for words in 'configsvc che' 'configsvc get --name' 'configsvc settings --' 'configsvc nosuch x'; do
    COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    _configsvc_completion configsvc
    echo "$words: ${COMPREPLY[*]}"
done
"""
ANSWERS = [
    "configsvc che: check",
    "configsvc get --name: --namespace",
    "configsvc settings --: --config --json --help",
    "configsvc nosuch x: ",
]


@pytest.fixture
def path(tmp_path):
    """A PATH on which `configsvc` is this checkout's."""
    script = tmp_path / "bin" / "configsvc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m configsvc "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}:{environ()['PATH']}"


def shell(*command, path, cwd):
    env = environ(PATH=path, HOME=str(cwd), PYTHONPATH=":".join(filter(None, sys.path)))
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash(path, tmp_path):
    done = shell("bash", "--norc", "-c", BASH, path=path, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ANSWERS


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_installed_for_bash(path, tmp_path):
    install = "configsvc --install-completion\ntrue"
    done = shell("bash", "--norc", "-c", install, path=path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rest = BASH.replace('eval "$(configsvc --show-completion)"', 'source "$HOME/.bashrc"')
    assert shell("bash", "--norc", "-c", rest, path=path, cwd=tmp_path).stdout.splitlines() == ANSWERS


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_takes_the_script(path, tmp_path):
    script = 'autoload -U compinit && compinit -u; eval "$(configsvc --show-completion)" && echo $_comps[configsvc]'
    done = shell("zsh", "-fc", script, path=path, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("_configsvc_completion\n", "")


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish(path, tmp_path):
    script = "configsvc --show-completion | source; complete -C 'configsvc che'"
    done = shell("fish", "--no-config", "-c", script, path=path, cwd=tmp_path)
    assert done.stdout.split()[0] == "check"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("shell_name", "variables"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "configsvc che"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "configsvc che", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_what_other_shells_are_answered(shell_name, variables, tmp_path):
    """Whether or not the shell is installed here."""
    done = run(*CONFIGSVC, cwd=tmp_path, _CONFIGSVC_COMPLETE=f"complete_{shell_name}", **variables)
    assert done.stderr == ""
    assert "check" in done.stdout
    assert "settings" not in done.stdout
