"""The files of `deploy/` and `compose/`, by what can be said without running them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from configsvc import __version__, settings
from configsvc.permissions import needed
from tests.docs.pages import HOWTO, fenced

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
def test_the_service_keeps_to_the_restricted_profile(file: Path) -> None:
    (pod,) = pods(file)
    # Else Kubernetes sets CONFIGSVC_PORT and others for a Service of that name.
    assert pod["enableServiceLinks"] is False
    service = service_of(file)
    security = service["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"requests", "limits"} <= set(service["resources"])


def test_nothing_is_forced_on_the_application() -> None:
    (pod,) = pods(ROOT / "deploy/kubernetes/sidecar.yaml")
    (application,) = pod["containers"]
    assert application.keys() == {"name", "image", "env", "volumeMounts"}
    assert "automountServiceAccountToken" not in pod
    assert pod["securityContext"].keys() == {"fsGroup", "fsGroupChangePolicy"}
    # A readiness probe of the sidecar would take the pod out of traffic, although its application works.
    assert "readinessProbe" not in service_of(ROOT / "deploy/kubernetes/sidecar.yaml")


YOURS = re.compile(r"REGISTRY|etcd-0\.etcd|secretName|ETCD_USER|SERVICE_NAME|metadata\.name:|app\.kubernetes\.io/name")


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_what_is_to_be_replaced_says_so(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    assert [line for line in lines if YOURS.search(line) and not line.endswith("  # yours")] == []


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
    assert pod["terminationGracePeriodSeconds"] > found.drain_delay_s + found.drain_s
    mounts = {mount["mountPath"] for mount in service_of(file)["volumeMounts"]}
    assert {str(found.cache_dir), str(Path(found.etcd_password_file or "").parent)} == mounts


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_probes_reach_the_service_and_a_restart_never_depends_on_etcd(file: Path) -> None:
    service = service_of(file)
    probes = {
        kind: service[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness") if f"{kind}Probe" in service
    }
    # Kubernetes gives a probe one second otherwise, and the command has a limit of two of its own.
    assert all(probe["timeoutSeconds"] == 3 for probe in probes.values())
    if settings_of(file).listen.host == "127.0.0.1":
        # The kubelet asks at the pod's address, where nothing listens then.
        asked = {kind: probe["exec"]["command"][-1] for kind, probe in probes.items()}
    else:
        asked = {kind: probe["httpGet"]["path"].rpartition("/")[2] for kind, probe in probes.items()}
    # Startup and liveness end in a restart, which brings no etcd back.
    assert (asked["startup"], asked["liveness"], asked.get("readiness", "ready")) == ("live", "live", "ready")


def test_what_selects_the_central_service_selects_its_pods() -> None:
    made = {one["kind"]: one["spec"] for one in documents(ROOT / "deploy/kubernetes/central.yaml")}
    labels = made["Deployment"]["template"]["metadata"]["labels"]
    assert made["Service"]["selector"] == labels
    assert made["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert made["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    assert made["Deployment"]["replicas"] > made["PodDisruptionBudget"]["minAvailable"]


def test_the_page_on_production_shows_the_manifests_network_policy() -> None:
    """One that selects other pods fails open, and nobody notices."""
    (made,) = [one for one in documents(ROOT / "deploy/kubernetes/central.yaml") if one["kind"] == "NetworkPolicy"]
    shown = [YAML(typ="safe").load(text) for text in fenced(HOWTO / "production.md", "yaml")]
    (policy,) = [one for one in shown if one.get("kind") == "NetworkPolicy"]
    assert policy == made


def test_the_page_for_platform_teams_makes_the_central_services_user() -> None:
    found = settings_of(ROOT / "deploy/kubernetes/central.yaml")
    page = (HOWTO / "platform-team.md").read_text("utf-8")
    assert f"etcdctl user add {found.etcd_user} " in page
    granted = re.findall(rf"role grant-permission {found.etcd_user} --prefix=true (\w+ \S+)", page)
    assert sorted(granted) == sorted(map(str, needed(None, writes=found.writes)))


def test_the_images_label_is_the_packages_version() -> None:
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "deploy/Dockerfile").read_text("utf-8")


def test_the_compose_files_are_projects_of_their_own() -> None:
    names = {file.name: documents(file)[0].get("name") for file in (ROOT / "compose").glob("*.yml")}
    assert None not in names.values()
    assert len(set(names.values())) == len(names)


def test_memory_is_limited_alike_wherever_it_runs() -> None:
    sidecar = service_of(ROOT / "deploy/kubernetes/sidecar.yaml")["resources"]
    (production,) = documents(ROOT / "compose/production.yml")
    assert sidecar["limits"]["memory"] == "256Mi"
    assert production["services"]["config-service"]["mem_limit"] == "256m"
    request = sidecar["requests"]["memory"].replace("Mi", " MiB")
    assert f"Request {request} and limit 256 MiB" in (HOWTO / "production.md").read_text("utf-8")
