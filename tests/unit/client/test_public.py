"""The public surface: what is exported is what is named, and every error has its place in the tree."""

import inspect
import subprocess
import sys
from importlib import resources

import config_service
import configsvc_client
from configsvc_client import AsyncConfigClient, ConfigClient, ConfigError, errors
from configsvc_client.addresses import _DECISIONS, classify


def test_all_names_exactly_what_the_package_exports() -> None:
    exported = {
        name
        for name, value in vars(configsvc_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(exported) == sorted(configsvc_client.__all__)


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    tree = inspect.getdoc(errors) or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and value.__module__ == errors.__name__:
            assert issubclass(value, ConfigError)
            assert name in tree


def test_every_kind_of_failure_has_a_decision() -> None:
    kinds = errors.Kind.__args__
    assert set(_DECISIONS) <= set(kinds)
    for kind in kinds:
        assert classify(errors.LinkError(kind, "x")) in ("retry", "next", "slow")


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        functions = {**members, "__init__": kind.__init__}
        return {
            name: [str(one) for one in inspect.signature(member).parameters.values()] if callable(member) else []
            for name, member in functions.items()
        }

    assert public(AsyncConfigClient) == public(ConfigClient)


def test_the_client_needs_nothing_of_the_service() -> None:
    code = "import sys, configsvc_client; print([name for name in sys.modules if name.split('.')[0] == 'configsvc'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_other_name_is_the_same_package() -> None:
    assert config_service.ConfigClient is ConfigClient
    assert config_service.__all__ == configsvc_client.__all__
    assert all(getattr(config_service, name) is getattr(configsvc_client, name) for name in configsvc_client.__all__)
    for package in (config_service, configsvc_client):
        assert (resources.files(package) / "py.typed").is_file()


def test_prometheus_is_imported_by_who_asks_for_it_only() -> None:
    code = "import sys, configsvc_client, config_service; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
