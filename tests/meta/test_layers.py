"""Imports point down only (docs/architecture.md): read from the syntax trees, so that nothing has to be imported."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIRE = {"configsvc_client.protocol", "configsvc_client.snapshot", "configsvc_client.sse"}
"""The client's modules that the server shares."""
COMPOSITION = {"configsvc.__main__", "configsvc.web.app", "configsvc.web.build", "configsvc.web.server"}
SETTINGS = {"configsvc.settings", "configsvc.settings_file", "configsvc.settings_values"}
EFFECTS = {"aiohttp", "asyncio", "logging", "os", "random", "socket", "structlog", "subprocess", "threading", "time"}
"""What a pure module has no use for."""


def imports(path):
    """Names of the modules that a file imports, wherever in it; `from a import b` names a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module(path): path for package in ("configsvc", "configsvc_client") for path in (ROOT / package).rglob("*.py")}
IMPORTS = {name: imports(path) for name, path in FILES.items()}
OURS = {name: {one for one in found if one in FILES and one != name} for name, found in IMPORTS.items()}
SERVER = sorted(name for name in FILES if name.split(".")[0] == "configsvc")
CLIENT = sorted(name for name in FILES if name.split(".")[0] == "configsvc_client")


def roots(name):
    """The packages that a module imports from."""
    return {one.split(".")[0] for one in IMPORTS[name]}


def attributes(path):
    """All attribute names in a file."""
    return {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}


def layer(name):
    """A module's number: 5 composition, 4 HTTP, 3 the running parts, 2 etcd, 1 pure, 0 wire."""
    package = ".".join(name.split(".")[:2])
    if name in WIRE or name == "configsvc":
        return 0
    if name in COMPOSITION or package == "configsvc.cli":
        return 5
    match package:
        case "configsvc.web":
            return 4
        case "configsvc.etcd":
            return 2
        case "configsvc.core" | "configsvc.errors":
            return 1
    return 1 if name in SETTINGS else 3


def test_the_modules_are_found():
    assert {
        "configsvc.core.model",
        "configsvc.hub",
        "configsvc.etcd.ops",
        "configsvc.web.routes",
        *WIRE,
    } <= FILES.keys()


def test_imports_point_down():
    ours = [(name, one) for name in SERVER for one in OURS[name] if one.startswith("configsvc.")]
    assert sorted(f"{name} -> {one}" for name, one in ours if layer(one) > layer(name)) == []


def test_the_server_shares_nothing_but_the_wire_format_with_the_client():
    foreign = [(name, one) for name in SERVER for one in OURS[name] if one.startswith("configsvc_client.")]
    assert sorted(f"{name} -> {one}" for name, one in foreign if one not in WIRE) == []


def test_the_client_knows_no_server():
    assert sorted(name for name in CLIENT if "configsvc" in roots(name)) == []


def test_pure_modules_have_no_effects():
    pure = [name for name in FILES if name in WIRE or (name in SERVER and layer(name) == 1 and name not in SETTINGS)]
    assert sorted(f"{name} -> {one}" for name in pure for one in roots(name) & EFFECTS) == []


def test_only_the_web_package_serves_http():
    below = [name for name in SERVER if layer(name) < 4]
    assert sorted(name for name in below if any(one.startswith("aiohttp.web") for one in IMPORTS[name])) == []
    assert sorted(name for name in below if layer(name) != 2 and "aiohttp" in roots(name)) == []


def test_only_settings_and_commands_read_the_environment():
    others = [name for name in SERVER if name not in SETTINGS and layer(name) < 5]
    assert sorted(name for name in others if attributes(FILES[name]) & {"environ", "getenv"}) == []


def test_there_are_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for one in sorted(OURS[name]):
                # A package's __init__ is its charter; what it re-exports is no dependency of its members.
                if not name.startswith(f"{one}."):
                    visit(one)
            path.pop()
            done.add(name)

    for name in sorted(FILES):
        visit(name)
