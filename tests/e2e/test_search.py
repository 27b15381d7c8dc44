"""The search as a page uses it: find a device, ask about it, complete a package, build it."""

from e2e.clients.scene import a_body
from e2e.service import Client, Service
from e2e.warm import warmed
from podman_service import APK_VERSION


def test_what_the_search_finds_can_be_built(local_service: Service, local: Client) -> None:
    warmed(local_service)
    (device,) = local.get(f"/api/v1/devices?version={APK_VERSION}&search=smal+acme").json["devices"]
    about = local.get(f"/api/v1/devices/{APK_VERSION}/{device['target']}/{device['profile']}").json
    assert about["title"] == device["title"] == "Acme Small"
    target = device["target"]
    found = local.get(f"/api/v1/packages?version={APK_VERSION}&target={target}&search=nan").json
    names = [package["name"] for package in found["packages"]]
    assert names[0] == "nano"
    body = a_body(version=APK_VERSION, target=target, profile=device["profile"], packages=names[:1])
    request_hash = local.build(body).json["request_hash"]
    assert local.wait(request_hash).json["manifest"]["nano"] == found["packages"][0]["version"]
