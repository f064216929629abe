"""The files of `deploy/` and `compose/`, by what can be said without running them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
DOCKERFILES = [ROOT / "deploy/Dockerfile", ROOT / "compose/app/Dockerfile"]


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in YAML(typ="safe").load_all(file) if document]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--failure-threshold", "warning", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_fit_the_schema(file: Path, version: str) -> None:
    for document in documents(file):
        kubernetes_validate.validate(document, version, strict=True)


def pods(file: Path) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in documents(file) if one["kind"] == "Deployment"]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests_keep_to_the_restricted_profile(file: Path) -> None:
    assert pods(file)
    for pod in pods(file):
        # Else Kubernetes sets CONFIGSVC_PORT and others for a Service of that name.
        assert pod["enableServiceLinks"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"requests", "limits"} <= set(container["resources"])


def test_there_are_manifests_for_both_ways() -> None:
    assert [file.name for file in MANIFESTS] == ["central.yaml", "sidecar.yaml"]
