"""The files of `deploy/` and `compose/`, by what can be said without running them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from configsvc import settings

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
DOCKERFILES = [ROOT / "deploy/Dockerfile", ROOT / "compose/app/Dockerfile"]
IMAGE = {"CONFIGSVC_LISTEN": "0.0.0.0:8080"}
"""What the image sets."""


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


def service_of(file: Path) -> dict[str, Any]:
    (pod,) = pods(file)
    (found,) = [c for c in [*pod.get("initContainers", []), *pod["containers"]] if c["name"] == "configsvc"]
    return dict(found)


def settings_of(file: Path) -> settings.Settings:
    """What the service makes of a manifest, where its files are there."""
    return settings.parse(IMAGE | {one["name"]: one["value"] for one in service_of(file)["env"]})


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_the_service_takes_a_manifests_settings(file: Path) -> None:
    found = settings_of(file)
    assert (found.mode, found.auth) == (file.stem, "none")
    assert [warning for warning in found.warnings if not warning.startswith("authentication is off")] == []
    (pod,) = pods(file)
    assert pod["terminationGracePeriodSeconds"] > found.drain_s
    mounts = {mount["mountPath"] for mount in service_of(file)["volumeMounts"]}
    assert {str(found.cache_dir), str(Path(found.etcd_password_file or "").parent)} == mounts


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_probes_reach_the_service_and_a_restart_never_depends_on_etcd(file: Path) -> None:
    service = service_of(file)
    probes = {kind: service[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    if settings_of(file).listen.host == "127.0.0.1":
        # The kubelet asks at the pod's address, where nothing listens then.
        asked = {kind: probe["exec"]["command"][-1] for kind, probe in probes.items()}
    else:
        asked = {kind: probe["httpGet"]["path"].rpartition("/")[2] for kind, probe in probes.items()}
    assert (asked["readiness"], asked["liveness"]) == ("ready", "live")


def test_what_selects_the_central_service_selects_its_pods() -> None:
    made = {one["kind"]: one["spec"] for one in documents(ROOT / "deploy/kubernetes/central.yaml")}
    labels = made["Deployment"]["template"]["metadata"]["labels"]
    assert made["Service"]["selector"] == labels
    assert made["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert made["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    assert made["Deployment"]["replicas"] > made["PodDisruptionBudget"]["minAvailable"]
