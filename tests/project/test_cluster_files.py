"""What runs the service on many hosts: compose.scale.yaml and the Helm chart name what there is."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from asu_builder.cli import main
from asu_builder.settings import Settings
from tools import require_tool, tool_missing

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm"
_SECRETS = "postgresql.passwordSecret=database,objects.passwordSecret=bucket"
_EVERYTHING = (
    f"{_SECRETS},ingress.enabled=true,ingress.tlsSecret=tls,filesSecret=files,signingFilesSecret=keys"
)
_OF_OTHERS = ("AWS_", "PGPASSWORD", "POSTGRES_", "PGDATA", "SECRET_KEY")
"""Variables that obstore, libpq and the images of the other parts read."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The parts of compose.scale.yaml, by name."""
    document = yaml.safe_load((ROOT / "compose.scale.yaml").read_text())
    services = document["services"]
    assert isinstance(services, dict)
    return services


def helm(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs it without a cluster and without files of the user."""
    program = Path(sys.prefix) / "bin" / "helm"
    if not program.exists():
        tool_missing("helm", "`make .venv/bin/helm` has not been run")
    return subprocess.run(
        [program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": "/nowhere", "KUBECONFIG": "/nowhere/config"},
    )


def rendered(values: str) -> list[dict[str, Any]]:
    """The chart's objects with these values."""
    result = helm("template", "asu", CHART, "--namespace", "builds", "--set", values)
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def pods(objects: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and description of the pods of each object that makes some."""
    for thing in objects:
        if "template" in thing.get("spec", {}):
            yield thing["metadata"]["name"], thing["spec"]["template"]


def require_command(arguments: Sequence[str]) -> None:
    """Fails unless our command line takes these words."""
    command: click.Command = main
    context, rest = click.Context(main), list(arguments)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest.pop(0))
        assert found is not None, arguments
        command = found
        context = click.Context(command, parent=context)
    command.parse_args(context, rest)


def require_variables(names: Sequence[str]) -> None:
    """Fails unless each of these variables is read by somebody."""
    settings = set(Settings.__struct_fields__)
    for name in names:
        assert name.startswith(_OF_OTHERS) or name.removeprefix("ASU_").lower() in settings, name


def test_the_composition_has_every_part(compose: dict[str, Any]) -> None:
    commands = [part["command"] for part in compose.values() if "asu-builder" in part["image"]]
    assert sorted(map(tuple, commands)) == [("serve", "--no-workers")] * 2 + [("worker",)] * 2
    assert {"postgres", "objects", "redis", "caddy"} < set(compose)


def test_the_composition_speaks_our_language(compose: dict[str, Any]) -> None:
    for part in compose.values():
        require_variables(list(part.get("environment", {})))
        if "asu-builder" in part["image"]:
            require_command(part["command"])


def test_all_nodes_of_the_composition_have_the_same_settings(compose: dict[str, Any]) -> None:
    nodes = [part["environment"] for part in compose.values() if "asu-builder" in part["image"]]
    shared = [{k: v for k, v in each.items() if not k.startswith("ASU_MONITORING_")} for each in nodes]
    assert all(each == shared[0] for each in shared)


def test_caddy_takes_its_configuration_and_names_every_api_node(compose: dict[str, Any]) -> None:
    require_tool("caddy")
    path = ROOT / "deploy" / "scale" / "Caddyfile"
    result = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    nodes = [name for name, part in compose.items() if part.get("command") == ["serve", "--no-workers"]]
    assert f"reverse_proxy {' '.join(f'{name}:8080' for name in nodes)} {{" in path.read_text()


def test_the_chart_has_no_fault_that_helm_finds() -> None:
    result = helm("lint", "--strict", CHART, "--set", _SECRETS)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("values", [_SECRETS, _EVERYTHING])
def test_the_chart_speaks_our_language(values: str) -> None:
    commands = set()
    for _, pod in pods(rendered(values)):
        for container in pod["spec"]["containers"]:
            require_variables([variable["name"] for variable in container.get("env", [])])
            if "asu-builder" in container["image"]:
                require_command(container["args"])
                commands.add(container["args"][0])
    assert commands == {"serve", "worker", "migrate"}


@pytest.mark.parametrize("values", [_SECRETS, _EVERYTHING])
def test_each_selector_finds_its_pods_and_each_mount_its_volume(values: str) -> None:
    objects = rendered(values)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects)}
    for thing in objects:
        spec = thing.get("spec", {})
        selector = spec.get("selector", {}).get("matchLabels", spec.get("selector", {}))
        if selector:
            found = {name for name, carried in labels.items() if selector.items() <= carried.items()}
            assert found == {thing["metadata"]["name"]}, thing["metadata"]
    for thing in objects:
        claims = {
            claim["metadata"]["name"] for claim in thing.get("spec", {}).get("volumeClaimTemplates", [])
        }
        for name, pod in pods([thing]):
            spec = pod["spec"]
            volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
            for container in [*spec["containers"], *spec.get("initContainers", [])]:
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name


def test_keys_reach_only_who_signs() -> None:
    objects = rendered(
        f"{_EVERYTHING},worker.settings.signing_key=file:/run/asu/signing.key,"
        "api.settings.signing_public_key=/run/asu/signing.key.pub"
    )
    nodes = dict(pods(objects))
    having = {
        name
        for name, pod in nodes.items()
        if any(volume["name"] == "signing-files" for volume in pod["spec"].get("volumes", []))
    }
    assert having == {"asu-worker"}
    named = {
        (name, variable["name"])
        for name, pod in nodes.items()
        for variable in pod["spec"]["containers"][0].get("env", [])
        if variable["name"].startswith("ASU_SIGNING")
    }
    assert named == {("asu-worker", "ASU_SIGNING_KEY"), ("asu-api", "ASU_SIGNING_PUBLIC_KEY")}


def test_a_node_of_the_chart_has_no_rights() -> None:
    seen = 0
    for _, pod in pods(rendered(_EVERYTHING)):
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            if "asu-builder" in container["image"]:
                security = container["securityContext"]
                assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
                assert security["allowPrivilegeEscalation"] is False
                assert security["capabilities"] == {"drop": ["ALL"]}
                seen += 1
    assert seen == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("objects.passwordSecret=b", "postgresql.passwordSecret names a Secret with the key password"),
        ("postgresql.passwordSecret=a", "objects.passwordSecret names a Secret with the key password"),
        ("postgresql.passwordSecret=a,objects.enabled=false", "objects.url names the bucket"),
    ],
)
def test_what_is_missing_is_told(values: str, said: str) -> None:
    result = helm("template", "asu", CHART, "--set", values)
    assert result.returncode != 0 and said in result.stderr


def test_own_database_and_bucket_take_the_place_of_the_trial() -> None:
    objects = rendered(
        "postgresql.enabled=false,redis.enabled=false,objects.enabled=false,objects.url=s3://images,"
        "environmentSecret=mine"
    )
    names = {name for name, _ in pods(objects)}
    assert names == {"asu-api", "asu-worker", "asu-migrate-1"}
    for _, pod in pods(objects):
        node = pod["spec"]["containers"][0]
        assert node["envFrom"] == [{"secretRef": {"name": "mine"}}]
        assert {"name": "ASU_STORE_URL", "value": "s3://images"} in node["env"]
        assert "ASU_DATABASE_URL" not in [variable["name"] for variable in node["env"]]
