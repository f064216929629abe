"""The commands that write, at a terminal: what is asked, what an interrupt does, and what is shown."""

import json
import os
import pty
import re
import signal
import subprocess
from collections import Counter
from contextlib import contextmanager

from tests.cli.commands import CONFIGSVC, DEADLINE_S, environ


def test_production_wants_a_yes(shell):
    production = {"CONFIG_ENVIRONMENT": "production-eu"}
    shell.write("v.yaml", "a: 1\nb: 2\n")
    for words in (["deploy", "v.yaml"], ["set", "a", "1"], ["repair"]):
        assert "say --yes" in shell(*words, expect=2, **production)
    assert "say --yes" in shell("set", "a", "1", "--confirm", expect=2)
    assert "2 keys added" in shell("plan", "v.yaml", **production)
    shell("deploy", "v.yaml", "--yes", **production)

    shell.write("w.yaml", "a: 2\n")
    code, seen = shell.at_terminal("deploy", "w.yaml", typed="n\n", **production)
    assert code == 1
    assert "1 key DELETED" in seen
    assert f"Write this to {shell.namespace}/production-eu? [y/N]" in seen
    assert "nothing was changed" in seen
    assert shell("get", "a", **production) == "1\n"
    code, seen = shell.at_terminal("deploy", "w.yaml", typed="y\n", **production)
    assert code == 0
    assert "is at release 2" in seen
    code, seen = shell.at_terminal("set", "a", "3", "--confirm", typed="\n")
    assert (code, "nothing was changed" in seen) == (1, True)
    # What is blocked is not asked about.
    code, seen = shell.at_terminal("promote", "--from", "nowhere", **production)
    assert (code, "[y/N]" in seen) == (1, False)


def test_production_wants_a_yes_for_what_makes_no_release_too(shell):
    production = {"CONFIG_ENVIRONMENT": "production"}
    scope = f"{shell.namespace}/production"
    shell("set", "a", "1", "--yes", **production)
    shell("own-keys", "old", "--yes", **production)
    cases = [
        (["freeze", "--for", "1h", "--reason", "x"], f"Refuse deploys to {scope} from now on?", "is frozen until"),
        (["unfreeze"], f"Take deploys to {scope} again?", "takes deploys"),
        (["own-keys", "b", "*.url"], f"Name b, *.url as the keys of its own of {scope}, in place of old?", "*.url"),
        (["own-keys", "--clear"], f"Name none as the keys of its own of {scope}, in place of b, *.url?", ""),
    ]
    for words, question, done in cases:
        assert "say --yes" in shell(*words, expect=2, **production)
        assert "say --yes" in shell(*words, "--confirm", expect=2, CONFIG_ENVIRONMENT="staging")
        code, seen = shell.at_terminal(*words, typed="n\n", **production)
        assert (code, f"{question} [y/N]" in seen, "nothing was changed" in seen) == (1, True, True), seen
        code, seen = shell.at_terminal(*words, typed="y\n", **production)
        assert (code, done in seen) == (0, True)
        shell(*words, "--yes", **production)
    # To look is not to write.
    assert shell("own-keys", **production) == ""


@contextmanager
def asking(shell, *words, **settings):
    """A command that has asked its question, and the terminal's other end."""
    parent, child = pty.openpty()
    env = environ(**(shell.settings | settings))
    command = (*CONFIGSVC, *words)
    try:
        with subprocess.Popen(command, cwd=shell.folder, env=env, stdin=child, stdout=-1, stderr=-1) as process:
            seen = b""
            try:
                while b"[y/N]" not in seen:
                    piece = process.stderr.read1(4096)
                    assert piece, seen
                    seen += piece
                yield process, parent
            finally:
                process.kill()
    finally:
        os.close(parent)
        os.close(child)


def test_what_was_agreed_to_is_what_is_written(shell):
    """Somebody else writes while the question is open."""
    prod = {"CONFIG_ENVIRONMENT": "prod"}
    shell.write("v.yaml", "a: 1\nb: 1\nc: 1\n")
    shell("deploy", "v.yaml", "--yes", **prod)
    shell.write("w.yaml", "a: 2\nb: 1\nc: 1\n")
    with asking(shell, "deploy", "w.yaml", **prod) as (process, terminal):
        shell("set", "b", "7", "--yes", **prod)
        os.write(terminal, b"y\n")
        _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 76
    assert b"changed since: b" in rest
    assert shell("get", "a", **prod) == "1\n"


def test_an_interrupt_at_the_question_ends_it(shell):
    with asking(shell, "set", "a", "1", "--confirm") as (process, _):
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, rest.strip()) == (130, b"")
    shell("history", expect=1)


def test_a_large_deploy_at_a_terminal(shell):
    """A window is opened for it; the terminal shows that something goes on, and in the end only what came of it."""
    shell.write("v.json", json.dumps({f"k{n:04}": "x" * 2000 for n in range(2000)}))
    code, seen = shell.at_terminal("deploy", "v.json", "--timeout-s", "30")
    assert code == 0, seen
    assert "is at release 1" in seen
    assert "2000 added" in seen
    assert "k0001" not in seen
    assert len(shell("get").splitlines()) == 2000


def test_nothing_is_cut_however_narrow_the_terminal(shell):
    shell("set", 'greeting="rather long, with words and 世界"', "--reason", "first")
    shell("emergency", "greeting", '"night"', "--reason", "incident 42")

    def letters(columns, *words):
        code, seen = shell.at_terminal(*words, COLUMNS=str(columns))
        assert code == 0
        return Counter("".join(re.sub(r"\x1b\[[0-9;]*m|─", "", seen).split()))

    for words in (["history"], ["history", "greeting"], ["drift"], ["status"]):
        wide = letters(400, *words)
        for columns in (20, 40, 60, 80, 100):
            assert letters(columns, *words) == wide, columns


def test_no_value_steers_a_terminal(shell):
    """Neither by escape sequences nor by characters that turn the order of what follows."""
    shell("set", 'greeting="one\\u001b[31m\\ntwo\\u202eabc"')
    code, seen = shell.at_terminal("get", "greeting", "--raw")
    assert (code, seen) == (0, "one\\x1b[31m\r\ntwo\\u202eabc\r\n")
    assert shell("get", "greeting", "--raw") == "one\x1b[31m\ntwo\u202eabc\n"
    for words in (["get"], ["get", "greeting"], ["get", "--json"], ["history", "greeting"], ["show", "@1"]):
        code, seen = shell.at_terminal(*words, COLUMNS="200")
        assert code == 0
        assert "\u202e" not in seen
        assert "\\u202e" in seen
