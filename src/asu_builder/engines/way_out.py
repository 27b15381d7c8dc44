"""How a build without a network reaches its proxy: a bridge inside, and output that shows nothing of it.

The container has a loopback interface and nothing else. Each command is started by a program that listens
there and passes bytes on to the socket of the build, which is mounted into the container. The program needs
Python, which every ImageBuilder needs too (`scripts/json_overview_image_info.py` describes the images).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from asu_builder.domain.addresses import parse_address, plain_address
from asu_builder.domain.diagnosis import refuses_a_file
from asu_builder.domain.errors import EngineUnavailable, Unavailable
from asu_builder.domain.job import Traffic
from asu_builder.engines.transfer import CappedFile
from asu_builder.proxy.channels import BuildProxy, Channel

INNER_SOCKET = "/run/asu-proxy.sock"
"""Where the socket is mounted."""
_PORT = 3128
_PLACE = f"127.0.0.1:{_PORT}"
_UNREACHED = "asu-builder: the proxy's socket cannot be reached:"
_UNREACHED_CODE = 69
_READ_BYTES = 256 << 10
"""Of what a command wrote, from its end."""

# It listens before the command runs, so the command never waits for it. One of an earlier command may still
# be there. Python ignores SIGPIPE, which the command would inherit.
_BRIDGE = f"""
import os, signal, socket, sys, _thread
def reach():
    out = socket.socket(socket.AF_UNIX)
    out.connect({INNER_SOCKET!r})
    return out
def pump(source, target):
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, target):
            try: one.shutdown(socket.SHUT_RDWR)
            except OSError: pass
try:
    reach().close()
except OSError as error:
    print({_UNREACHED!r}, error.strerror, file=sys.stderr)
    sys.exit({_UNREACHED_CODE})
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(("127.0.0.1", {_PORT}))
    listener.listen(64)
    serves = os.fork() == 0
except OSError:
    serves = False
if not serves:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try: os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error: sys.exit(f"{{sys.argv[1]}}: {{error.strerror}}")
nothing = os.open(os.devnull, os.O_RDWR)
for number in range(3): os.dup2(nothing, number)
_thread.stack_size(256 << 10)
while True:
    try:
        client = listener.accept()[0]
        out = reach()
        _thread.start_new_thread(pump, (client, out))
        _thread.start_new_thread(pump, (out, client))
    except (OSError, RuntimeError):
        try: client.close()
        except NameError: pass
"""


class WayOut:
    """The one way out of one container, or that it has none."""

    def __init__(self, proxy: BuildProxy | None) -> None:
        """Without a `proxy` the container has a network, or needs none."""
        self.is_proxied = proxy is not None
        self._channel: Channel | None = None
        self._fault = ""
        """Why there is no channel though the build should have one, and what helps."""
        if proxy is not None:
            try:
                self._channel = proxy.open()
            except Unavailable as problem:
                self._fault = not_usable(str(problem).rstrip("."))
        self.traffic: Traffic | None = None
        """What the build had, once it is closed; None without a channel."""
        self._is_open = False
        self._is_proven = False
        self._restored: dict[bytes, bytes] = {}

    @property
    def socket(self) -> Path | None:
        """What is to be mounted at `INNER_SOCKET`."""
        return self._channel.socket if self._channel else None

    @property
    def holds(self) -> bool:
        """Whether a container that has waited could still get out, if it is to."""
        if self._channel is None:
            return not self.is_proxied
        try:
            self._channel.require()
        except Unavailable:
            return False
        return True

    def give_up(self, why: str) -> None:
        """The engine cannot mount the socket. Only a build that needs a way out is told so."""
        self.close()
        self._channel, self._fault = None, not_usable(why)

    def allow(self, urls: Sequence[str]) -> None:
        """As `ports.Container.allow`: where nothing is asked for, no way is needed."""
        if not urls:
            return
        if self._channel is None:
            raise EngineUnavailable(self._fault)
        self._channel.allow(urls)
        self._is_open = True
        self._restored[_PLACE.encode()] = b"the proxy"
        for url in urls:
            address = parse_address(url)
            if address and address.scheme == "https":
                start = url.partition("/")[0] + "//" + url.split("/")[2]
                self._restored[f"{plain_address(start)}/".encode()] = f"{start}/".encode()

    @property
    def variables(self) -> Mapping[str, str]:
        """What commands are told of it: programs that speak HTTPS themselves are refused, with a sentence."""
        if not self._is_open:
            return {}
        variables = {"http_proxy": f"http://{_PLACE}", "https_proxy": f"http://{_PLACE}", "no_proxy": ""}
        return variables | {name.upper(): value for name, value in variables.items()}

    def wrap(self, arguments: Sequence[str]) -> Sequence[str]:
        """The command that makes the bridge and then becomes this one."""
        return ["python3", "-I", "-S", "-c", _BRIDGE, *arguments] if self._is_open else arguments

    def finish(self, code: int, stderr: CappedFile) -> None:
        """Looks at how a command has ended, and writes behind its errors what the proxy has noted of it.

        Raises `EngineUnavailable` where the first one did not get out: later ones run strangers' code, which
        may say anything. Raises `Unavailable` where the proxy has ended, whatever the command made of that.
        """
        if self._channel is None or not self._is_open:
            return
        if code == _UNREACHED_CODE and not self._is_proven:
            said = stderr.path.read_bytes()[:1000].decode(errors="replace")
            if said.startswith(_UNREACHED):
                why = said[len(_UNREACHED) :].partition("\n")[0].strip()
                raise EngineUnavailable(not_usable(f"a container cannot use its socket ({why})"))
        self._is_proven = True
        with stderr.path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _READ_BYTES))
            if refuses_a_file(file.read(_READ_BYTES).decode(errors="replace")):
                self._channel.distrust()
        for sentence in self._channel.notes():
            stderr.write(f"Proxy: {sentence}\n".encode())
        self._channel.require()

    def close(self) -> None:
        """Ends it."""
        if self._channel is not None:
            self.traffic = self._channel.close()

    def restore(self, write: Callable[[bytes], None]) -> "Restored":
        """Writes what a command prints, with the addresses that the proxy stands for."""
        return Restored(write, self._restored)


class Restored:
    """Replaces words in a stream, wherever its pieces are cut. What may be half a word waits for the rest."""

    def __init__(self, write: Callable[[bytes], None], words: Mapping[bytes, bytes]) -> None:
        self._write = write
        self._words = words
        self._longest = max(map(len, words), default=0)
        self._held = b""

    def write(self, chunk: bytes) -> None:
        """Passes on all of it but a tail that may be the beginning of a word."""
        if not self._words:
            self._write(chunk)
            return
        text = self._held + chunk
        for word, instead in self._words.items():
            text = text.replace(word, instead)
        keep = 0
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(word.startswith(tail) for word in self._words):
                keep = length
                break
        self._held = text[len(text) - keep :]
        if len(text) > keep:
            self._write(text[: len(text) - keep])

    def end(self) -> None:
        """Passes on what was held."""
        held, self._held = self._held, b""
        if held:
            self._write(held)


def not_usable(why: str) -> str:
    """The sentence of an engine that builds cannot get out of, with what helps."""
    return (
        f"Builds have no way out: {why}. The engine must find proxy_directory under the same path as this "
        "service, and let containers use a socket in it; `asu-builder doctor` tries it. With build_network: "
        "bridge builds have a network instead, and reach what this host reaches."
    )
