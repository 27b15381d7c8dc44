"""Where a build gets to: thirty places with somebody who answers, by a network and by the proxy of builds."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_sample.distribution import Distribution
from build_proxy_rig import ProxyBench
from odd_server import odd_server
from runtime_rig import a_spec
from tools import require_tool, tool_missing

pytestmark = pytest.mark.long

TOKEN = b"REACHED-BY-A-BUILD"
_DUMMY = "asu-try0"
_V4 = (
    *("10.77.88.1", "10.77.88.53", "172.29.88.1", "192.168.188.1", "100.64.88.1", "169.254.169.254"),
    *("169.254.88.1", "203.0.113.88", "198.51.100.88", "192.0.2.88", "198.18.88.1", "240.0.0.88"),
)
_V6 = ("fd00:ec2::254", "fd00:88::1", "2001:db8:88::1")
_PORTS = (81, 443, 2375, 3306, 5432, 6379, 8080, 9090)
_PROBE = """
import json, socket, sys
places = json.loads(sys.argv[1])
def answered(place):
    kind, address, request = place["kind"], place["address"], place["request"].encode()
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX); address = address.replace("@", "\\0", 1)
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        s = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        address = tuple(address)
    with s:
        s.settimeout(2)
        s.connect(address)
        s.sendall(request)
        got = b""
        while part := s.recv(4096):
            got += part
            if kind == "udp": break
    return b"REACHED-BY-A-BUILD" in got
for place in places:
    try:
        if answered(place): print(place["name"])
    except OSError:
        pass
"""


def _serve(server: socket.socket) -> None:
    while True:
        try:
            if server.type == socket.SOCK_DGRAM:
                _, peer = server.recvfrom(1000)
                if peer is None:
                    return  # it was shut down
                server.sendto(TOKEN, peer)
                continue
            client, _ = server.accept()
        except OSError:
            return
        with suppress(OSError), client:
            client.settimeout(2)
            client.recv(1000)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(TOKEN), TOKEN))


@contextmanager
def listening(server: socket.socket) -> Iterator[socket.socket]:
    """Answers everybody who gets there."""
    thread = Thread(target=_serve, args=(server,), daemon=True)
    if server.type == socket.SOCK_STREAM:
        server.listen()
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def _ip(*words: str, must: bool = True) -> bool:
    ended = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if must and ended.returncode:
        tool_missing("ip", f"it cannot give this host addresses: {ended.stderr.strip()}")
    return not ended.returncode


Place = dict[str, object]


def place(name: str, address: object, kind: str = "tcp", request: str = "GET / HTTP/1.0\r\n\r\n") -> Place:
    return {"name": name, "address": address, "kind": kind, "request": request}


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[Place]]:
    """Thirty of them, each with a live listener of this host."""
    require_tool("ip")
    found: list[Place] = []
    with ExitStack() as stack:
        device = "lo"  # kernels of small machines have no dummies
        if _ip("link", "add", _DUMMY, "type", "dummy", must=False):
            device = _DUMMY
            stack.callback(_ip, "link", "del", _DUMMY, must=False)
            _ip("link", "set", _DUMMY, "up")
        for address in (*(f"{it}/32" for it in _V4), *(f"{it}/128" for it in _V6)):
            _ip("addr", "replace", address, "dev", device)
            stack.callback(_ip, "addr", "del", address, "dev", device, must=False)

        def listen(family: int, kind: int, address: object) -> socket.socket:
            server = socket.socket(family, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)  # type: ignore[arg-type]
            return stack.enter_context(listening(server))

        everywhere = listen(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0)).getsockname()[1]
        everywhere6 = listen(socket.AF_INET6, socket.SOCK_STREAM, ("::", 0)).getsockname()[1]
        for address in ("127.0.0.1", "127.0.0.2", *_V4):
            found.append(place(f"{address} on all addresses", (address, everywhere)))
        for address in ("::1", *_V6):
            found.append(place(f"{address} on all addresses", (address, everywhere6)))
        for port in _PORTS:
            listen(socket.AF_INET, socket.SOCK_STREAM, ("10.77.88.1", port))
            found.append(place(f"port {port}", ("10.77.88.1", port)))
        listen(socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80))
        found.append(place("metadata", ("169.254.169.254", 80)))
        for kind, name in ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")):
            listen(socket.AF_INET, kind, ("10.77.88.53", 53))
            found.append(place(f"names by {name}", ("10.77.88.53", 53), name))
        listen(socket.AF_UNIX, socket.SOCK_STREAM, "\0asu-try-abstract")
        found.append(place("abstract socket", "@asu-try-abstract", "unix"))
        short = Path("/run") / f"asu-try-{tmp_path.name}.sock"
        stack.callback(short.unlink, missing_ok=True)
        listen(socket.AF_UNIX, socket.SOCK_STREAM, str(short))
        found.append(place("socket of the host", str(short), "unix"))
        yield found


def through_the_proxy(places: list[Place]) -> list[Place]:
    """The same places, asked for by way of the bridge, in the ways that programs do."""
    found = []
    for known in places:
        if known["kind"] == "tcp" and isinstance(known["address"], tuple):
            host, port = known["address"]
            host = f"[{host}]" if ":" in host else host
            for method, asked in (("GET", f"http://{host}:{port}/"), ("CONNECT", f"{host}:{port}")):
                request = f"{method} {asked} HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HTTP/1.0\r\n\r\n"
                found.append(place(f"{method} {asked}", ("127.0.0.1", 3128), request=request))
    return found


@pytest.fixture(params=["podman", "bubblewrap"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap":
        require_tool("bwrap")
        if not bubblewrap_works():
            tool_missing("bwrap", "it may not create its sandbox here")
    return str(request.param)


def reached(bench: ProxyBench, server_url: str, places: list[Place]) -> set[str]:
    """The names of the places that a command in a container of this bench gets an answer from."""
    with bench.runtime.open(a_spec(), stop=Event()) as container:
        if container.is_proxied:
            container.allow([f"{server_url}/allowed"])
        result = container.run(["python3", "-c", _PROBE, json.dumps(places)], output=bench.root)
        assert result.exit_code == 0, result.stderr.read_text()
        return set(result.stdout.read_text().splitlines())


def test_a_build_gets_to_its_proxy_and_nowhere_else(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sample_world: Distribution,
    places: list[Place],
) -> None:
    socket_path = request.getfixturevalue("podman_socket") if kind == "podman" else Path()
    assert len(places) >= 30
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "allowed").write_bytes(TOKEN)
    (tmp_path / "files" / "other").write_bytes(TOKEN)
    with odd_server(tmp_path / "files") as server:
        benches = {}
        for network in ("bridge", "proxy"):
            root = tmp_path / network
            root.mkdir()
            benches[network] = ProxyBench(
                kind,
                root,
                server.url,
                podman_socket=socket_path,
                template=sample_world.template,
                build_network=network,
            )
        try:
            by_network = reached(benches["bridge"], server.url, places)
            assert len(by_network) >= 12, by_network
            # What it may have shows that the way is open; its neighbour, and all else, is not.
            own = [
                place(name, ("127.0.0.1", 3128), request=f"GET {server.url}/{name} HTTP/1.1\r\n\r\n")
                for name in ("allowed", "other")
            ]
            all_places = [*places, *through_the_proxy(places), *own]
            assert reached(benches["proxy"], server.url, all_places) == {"allowed"}
        finally:
            for bench in benches.values():
                bench.close()
