"""The layers: imports point down only, the core is pure, and each edge of the world has one owner.

5  cli, __main__, web/app and what composes      may import anything
4  web/*                                         the only users of aiohttp.web
3  hub follower writer audit metrics auth/* ...  asyncio; no aiohttp.web
2  etcd/*                                        the only code that knows etcd's API
1  core/*, errors                                pure
0  configsvc_client.{protocol,entries,snapshot,sse}  the only client modules that the server may import
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPURE = {"asyncio", "aiohttp", "os", "time", "random", "logging", "socket", "subprocess", "threading", "secrets"}
SHARED = {f"configsvc_client.{name}" for name in ("protocol", "entries", "snapshot", "sse")}
COMPOSITION = (
    "configsvc.cli",
    "configsvc.__main__",
    "configsvc.web.app",
    "configsvc.web.build",
    "configsvc.web.server",
    "configsvc.web.workers",
)
ENVIRON_READERS = ("configsvc.cli", "configsvc.probe", "configsvc.__main__")
"""Of the service: the command line hands it to the settings, and `__main__` looks whether a shell asks for completion;
a container's probe is a program of its own. The client reads its own variables in its own place."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("configsvc", "configsvc_client")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Everything that a module imports, as absolute names; `from a import b` as `a.b` where that is a module."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES or inner == "aiohttp.web" else base


TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
IMPORTS = {name: sorted(set(imports(name, tree))) for name, tree in TREES.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def layer(name: str) -> int:
    if name in SHARED:
        return 0
    if within(name, *COMPOSITION):
        return 5
    if within(name, "configsvc.web"):
        return 4
    if within(name, "configsvc.etcd"):
        return 2
    if name == "configsvc" or within(name, "configsvc.core", "configsvc.errors"):
        return 1
    return 3


SERVICE = [name for name in MODULES if within(name, "configsvc")]
CLIENT = [name for name in MODULES if within(name, "configsvc_client")]
JUDGES = {"configsvc.checks", "configsvc.checks_etcd", "configsvc.permissions", "configsvc.etcd.facts"}
"""Above the core, for they know etcd, and as pure."""
PURE = [name for name in MODULES if layer(name) <= 1 or name in JUDGES]


def ours(name: str) -> list[str]:
    return [target for target in IMPORTS[name] if target in MODULES]


def test_there_is_something_to_check() -> None:
    assert {"configsvc.core.feed", "configsvc.etcd.gateway", "configsvc.settings", *SHARED} - set(MODULES) <= SHARED
    assert "configsvc.etcd.ops" in IMPORTS["configsvc.etcd.gateway"]
    assert "aiohttp" in IMPORTS["configsvc.etcd.transport"]


@pytest.mark.parametrize("name", SERVICE)
def test_imports_point_down(name: str) -> None:
    above = [target for target in ours(name) if layer(target) > layer(name)]
    assert not above, f"{name} (layer {layer(name)}) imports {above}"


@pytest.mark.parametrize("name", SERVICE)
def test_the_service_takes_of_the_client_what_is_shared(name: str) -> None:
    if layer(name) < 5:
        assert [target for target in IMPORTS[name] if within(target, "configsvc_client")] == [
            target for target in IMPORTS[name] if target in SHARED
        ]


@pytest.mark.parametrize("name", CLIENT)
def test_the_client_never_imports_the_service(name: str) -> None:
    assert [target for target in IMPORTS[name] if within(target, "configsvc")] == []


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name: str) -> None:
    if name != "configsvc":
        assert [target for target in IMPORTS[name] if target.partition(".")[0] in IMPURE] == []


@pytest.mark.parametrize("name", SERVICE)
def test_aiohttp_web_belongs_to_the_web(name: str) -> None:
    if not within(name, "configsvc.web", "configsvc.cli"):
        assert [target for target in IMPORTS[name] if within(target, "aiohttp.web")] == []
        uses = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)]
        assert not [
            node
            for node in uses
            if node.attr == "web" and isinstance(node.value, ast.Name) and node.value.id == "aiohttp"
        ]


@pytest.mark.parametrize("name", SERVICE)
def test_the_environment_has_one_reader(name: str) -> None:
    words = {"environ", "environb", "getenv", "getenvb", "putenv"}
    named = {
        alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
    }
    used = {
        node.attr
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    if not within(name, *ENVIRON_READERS):
        assert not (named | used) & words


@pytest.mark.parametrize("name", SERVICE)
def test_settings_are_read_above_etcd_only(name: str) -> None:
    if layer(name) <= 2:
        assert "configsvc.settings" not in IMPORTS[name]


@pytest.mark.parametrize("name", SERVICE)
def test_etcds_gateway_is_known_to_those_who_compose(name: str) -> None:
    """The rest programs against `etcd.ops`."""
    inner = {"configsvc.etcd.gateway", "configsvc.etcd.transport", "configsvc.etcd.wire", "configsvc.etcd.reader"}
    if layer(name) < 5 and not within(name, "configsvc.etcd"):
        assert not inner & set(IMPORTS[name])
