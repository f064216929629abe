"""Every example against the service on a real etcd: as it is documented, as a process of its own."""

import ast
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configsvc.etcd.local import LocalEtcd
from tests.examples.support import ALL, EXAMPLES, Example, started
from tests.support import etcd as support
from tests.support.process import Hand, ServiceProcess

MAX_LINES = 9
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def etcd(start_etcd: Callable[[str], LocalEtcd]) -> LocalEtcd:
    return start_etcd(support.newest())


@pytest.fixture(scope="module")
def service(etcd: LocalEtcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    settings = {"CONFIGSVC_MODE": "central", "ETCD_ENDPOINTS": etcd.url}
    with ServiceProcess(tmp_path_factory.mktemp("service"), **settings) as service:
        service.start()
        yield service


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_it_shows_a_live_value_follows_a_change_and_ends(
    example: Example, etcd: LocalEtcd, service: ServiceProcess, tmp_path: Path
) -> None:
    hand = Hand(etcd)
    hand.write({"page.size": 30, "pause_s": 0.05})
    scope = {"SERVICE_NAME": hand.scope.namespace, "CONFIG_ENVIRONMENT": hand.scope.environment}
    with started(example, tmp_path, CONFIGSVC_URL=service.url, **scope) as running:
        running.wait_started()
        running.wait_for(30)
        hand.write({"page.size": 50})
        running.wait_for(50)
        running.wait_said("page.size: 30 -> 50")
        # What makes no sense is not taken: the default is.
        hand.write({"page.size": "many"})
        running.wait_for(20)
        running.stop()


def test_with_nothing_reachable_each_starts_on_its_defaults_and_ends(tmp_path: Path) -> None:
    def try_one(example: Example) -> None:
        with started(example, tmp_path / example.name, CONFIGSVC_URL=NOBODY) as running:
            running.wait_started()
            running.wait_for(20, processes=1)
            running.stop()

    # All at once, because the first read of each waits for a service as long as the client does by default.
    with ThreadPoolExecutor(len(ALL)) as pool:
        for done in [pool.submit(try_one, example) for example in ALL]:
            done.result()


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_the_integration_is_under_ten_lines(example: Example) -> None:
    lines = {name: integration(EXAMPLES / name) for name in example.files}
    assert 0 < sum(map(len, lines.values())) <= MAX_LINES, lines


def integration(path: Path) -> list[str]:
    """The lines that are there for the client only or touch it: imports, its making, reads, callbacks, its end.

    A function that makes the client, or exists to take a change, counts as a whole, with its decorators; elsewhere each
    statement that names the client does, over all its lines.
    """
    source = path.read_text("utf-8")
    lines = source.splitlines()
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _makes_or_takes(node):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found |= set(range(first, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.stmt):
            # Of a statement with a body only the head is its own.
            body: list[ast.stmt] = getattr(node, "body", [])
            end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            own = [child for child in ast.iter_child_nodes(node) if child not in body]
            if any(_names_it(inner) for child in [*own, *([] if body else [node])] for inner in ast.walk(child)):
                found |= set(range(node.lineno, end + 1))
    return [lines[number - 1] for number in sorted(found) if lines[number - 1].strip()]


def _makes_or_takes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    def name(node: ast.AST | None) -> str:
        return node.id if isinstance(node, ast.Name) else ""

    made = {name(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    taken = {name(argument.annotation) for argument in function.args.args}
    return bool(made & {"ConfigClient", "AsyncConfigClient"} or "ConfigChange" in taken)


def _names_it(node: ast.AST) -> bool:
    words = {"config", "CONFIG", "ConfigClient", "AsyncConfigClient", "on_change", "live_config"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "configsvc_client" or any(alias.name in words for alias in node.names)
    if isinstance(node, ast.Attribute):
        return node.attr in words
    return isinstance(node, ast.Name) and node.id in words
