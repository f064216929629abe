"""Both management clients are the same, and as small as they say."""

import inspect
import subprocess
import sys

import msgspec

from configsvc_client.admin import AdminClient, AsyncAdminClient
from configsvc_client.admin_types import Entries


def public(kind):
    members = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
    return {
        name: (
            list(inspect.signature(member).parameters.values())[1:],
            inspect.getdoc(member) if name != "close" else "",
        )
        for name, member in (members | {"__init__": kind.__init__}).items()
    }


def test_both_have_the_same_methods_parameters_and_words():
    one, other = public(AdminClient), public(AsyncAdminClient)
    assert one.keys() == other.keys()
    for name in one.keys() - {"at", "close", "__init__"}:
        assert one[name] == other[name], name
    for name in ("at", "__init__"):
        assert one[name][0] == other[name][0]


def test_it_needs_nothing_of_the_service_and_nobody_pays_for_it_unasked():
    code = (
        "import sys, configsvc_client; assert 'configsvc_client.admin' not in sys.modules;"
        "import configsvc_client.admin;"
        "print([name for name in sys.modules if name.split('.')[0] in ('configsvc', 'rich', 'typer')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_entry_of_many_knows_its_key():
    text = """{"namespace": "a", "environment": "b", "epoch": "0", "revision": 1, "release": null, "version": null,
        "entries": {"x.y": {"value": 1, "source": "stored", "revision": 1}}}"""
    assert msgspec.json.decode(text, type=Entries).entries["x.y"].key == "x.y"
