"""A service that has been asked before: what it knows of upstream is there at once."""

from e2e.service import Client, Service
from factories import eventually
from podman_service import APK_VERSION

_PLACES = {"pico/nine": ("pico_9kc", "acme_small"), "x86/64": ("x86_64", "generic")}


def warmed(service: Service) -> str:
    """The service's address, once it answers every question about what can be built."""
    with service.client() as client:
        assert eventually(lambda: _knows_all_targets(client)), "upstream's targets are not there yet"
        for path in _paths(client):
            assert eventually(lambda path=path: client.get(path).status != 503), path  # type: ignore[misc]
    return f"http://127.0.0.1:{service.port}"


def _knows_all_targets(client: Client) -> bool:
    answer = client.get("/json/v1/branches.json")
    return answer.status == 200 and all(branch["targets"] for branch in answer.json if branch["versions"])


def _paths(client: Client) -> list[str]:
    paths = []
    for branch in client.get("/json/v1/branches.json").json:
        for version in branch["versions"]:
            base = f"/json/v1/{branch['path'].replace('{version}', version)}"
            paths += [f"{base}/targets/{target}/{profile}.json" for target, (_, profile) in _PLACES.items()]
    base = f"/json/v1/releases/{APK_VERSION}"
    paths.append(f"/api/v1/devices?version={APK_VERSION}")
    for target, (architecture, _) in _PLACES.items():
        paths += [f"{base}/packages/{architecture}-index.json", f"{base}/targets/{target}/index.json"]
        paths += [f"/api/v1/revision/{version}/{target}" for version in (APK_VERSION, "SNAPSHOT")]
    return paths
