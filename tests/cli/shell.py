"""Somebody at a shell, with or without a terminal, who talks to a service that runs."""

import json
import uuid

from tests.cli.commands import CONFIGSVC, at_terminal, run


class Shell:
    """Somebody in a folder of their own, with a scope of their own."""

    def __init__(self, url, folder):
        self.folder = folder
        self.namespace = f"ns-{uuid.uuid4().hex[:12]}"
        self.settings = {
            "CONFIGSVC_URL": url,
            "SERVICE_NAME": self.namespace,
            "CONFIG_ENVIRONMENT": "staging",
        }

    def __call__(self, *words, expect=0, **settings):
        """Run a command; its stdout if the exit code is 0, else its stderr."""
        done = run(*CONFIGSVC, *words, cwd=self.folder, **(self.settings | settings))
        assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if expect == 0 else done.stderr

    def json(self, *words):
        return json.loads(self(*words, "--json"))

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return name

    def at_terminal(self, *words, typed="", **settings):
        """Exit code and everything that a terminal shows, with `typed` on it."""
        return at_terminal(*CONFIGSVC, *words, cwd=self.folder, typed=typed, columns=100, **(self.settings | settings))
