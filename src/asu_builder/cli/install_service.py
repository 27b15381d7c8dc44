"""`asu-builder install-service`: units for systemd, for the system or for one user."""

import os
import shutil
import sys
from pathlib import Path

import click
from msgspec import Struct

_SOCKET = """\
# Holds the port over a restart: clients that connect meanwhile wait and are not refused.
[Unit]
Description=Port of the ASU Builder

[Socket]
ListenStream={listen}
Backlog=2048
NoDelay=true

[Install]
WantedBy=sockets.target
"""

_PODMAN_SOCKET = """\
# Lets the service into the system's Podman. Debian and others close the directory to all but root.
[Socket]
SocketMode=0660
SocketGroup=asu
ExecStartPost=/bin/chgrp asu /run/podman
ExecStartPost=/bin/chmod 0710 /run/podman
"""

_DESCRIPTION = "ASU Builder: OpenWrt images with exactly the packages a router needs"
_SERVICE = """\
[Unit]
Description={description}
{requires}After={after}
Wants={wants}

[Service]
Type=notify
NotifyAccess=main
ExecStart={executable} {command}
{identity}
Restart=on-failure
RestartSec=2
# A setting that is wrong is for the operator to correct: no later start would go better.
RestartPreventExitStatus=2
# The event loop says every ten seconds that it turns.
WatchdogSec=30
# Running builds may end first (shutdown_grace), then they are given back.
KillMode=mixed
TimeoutStopSec=120
LimitNOFILE=16384
MemoryMax=512M
{hardening}
[Install]
WantedBy={wanted_by}
"""

_SYSTEM_IDENTITY = """\
User=asu
Group=asu
StateDirectory=asu-builder
StateDirectoryMode=0750
CacheDirectory=asu-builder
# Database and images are below it, unless the settings say otherwise.
WorkingDirectory=/var/lib/asu-builder
Environment=CONTAINER_HOST=unix:///run/podman/podman.sock
Environment=HOME=/var/lib/asu-builder PEX_ROOT=/var/cache/asu-builder PYTHONDONTWRITEBYTECODE=1"""

_USER_IDENTITY = """\
WorkingDirectory=%S/asu-builder
StateDirectory=asu-builder
Environment=CONTAINER_HOST=unix://%t/podman/podman.sock"""

_SYSTEM_HARDENING = """
# It writes its own state, talks to Podman's socket and to the network, and needs nothing else.
# Builds run in Podman's containers, not below this unit.
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=true
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
PrivateDevices=true
PrivateUsers=true
PrivateMounts=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
ProcSubset=pid
RemoveIPC=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
MemoryDenyWriteExecute=true
DevicePolicy=closed
KeyringMode=private
UMask=0027
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_USER_HARDENING = """
# What a user's own manager can do without root.
NoNewPrivileges=true
LockPersonality=true
MemoryDenyWriteExecute=true
RestrictRealtime=true
RestrictSUIDSGID=true
SystemCallArchitectures=native
UMask=0027
"""

_SYSTEM_NEXT = """\
useradd --system --user-group --home-dir /var/lib/asu-builder --shell /usr/sbin/nologin asu
systemctl daemon-reload
systemctl restart podman.socket
systemctl enable --now {units}"""

_USER_NEXT = """\
loginctl enable-linger
systemctl --user daemon-reload
systemctl --user enable --now podman.socket {units}"""


class Units(Struct, frozen=True):
    """Unit files by name, where they belong, and what to type afterwards."""

    files: dict[str, str]
    directory: Path
    following: str


def make_units(*, executable: str, listen: str, user: bool, worker: bool = False) -> Units:
    """The units of a service for the system, or of one for a user with rootless Podman.

    That of a `worker` has no socket: no client waits at its port.
    """
    name = "asu-builder-worker" if worker else "asu-builder"
    wants = "podman.socket" if user else "network-online.target podman.socket"
    service = _SERVICE.format(
        description="ASU Builder: builds what its other processes have accepted" if worker else _DESCRIPTION,
        requires="" if worker else "Requires=asu-builder.socket\n",
        executable=executable,
        command="worker" if worker else "serve",
        after=wants if worker else f"asu-builder.socket {wants}",
        wants=wants,
        identity=_USER_IDENTITY if user else _SYSTEM_IDENTITY,
        hardening=_USER_HARDENING if user else _SYSTEM_HARDENING,
        wanted_by="default.target" if user else "multi-user.target",
    )
    directory = Path("~/.config/systemd/user").expanduser() if user else Path("/etc/systemd/system")
    files = {} if worker else {"asu-builder.socket": _SOCKET.format(listen=listen)}
    files[f"{name}.service"] = service
    if not user:
        files["podman.socket.d/asu-builder.conf"] = _PODMAN_SOCKET
    units = f"{name}.service" if worker else f"{name}.socket {name}.service"
    return Units(files, directory, (_USER_NEXT if user else _SYSTEM_NEXT).format(units=units))


@click.command("install-service")
@click.option(
    "--user", is_flag=True, help="Install for your user, with rootless Podman; default: for the system."
)
@click.option("--worker", is_flag=True, help="Of a host that only builds: `asu-builder worker`.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Address and port.")
@click.option("--executable", help="The program to start; default: this one.")
@click.option("--print", "only_print", is_flag=True, help="Print the units and change nothing.")
def install_service_command(
    user: bool, worker: bool, listen: str, executable: str | None, only_print: bool
) -> None:
    """Writes units for systemd: notify, watchdog, a port that survives restarts, hardening."""
    if not executable:
        # The absolute path of the program that runs: a single file, or a script of an environment.
        started = os.environ.get("PEX") or sys.argv[0]
        executable = str(Path(shutil.which(started) or started).absolute())
    units = make_units(executable=executable, listen=listen, user=user, worker=worker)
    for name, text in units.files.items():
        path = units.directory / name
        if only_print:
            click.echo(f"# {path}\n{text}")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            hint = "" if user else " Type it as root, or add --user."
            raise click.ClickException(f"{path} cannot be written: {error.strerror}.{hint}") from error
        click.echo(f"wrote {path}")
    lead = "# Afterwards:" if only_print else "Now type:"
    prefix = "# " if only_print else "  "
    click.echo("\n".join([lead, *(prefix + line for line in units.following.splitlines())]))
