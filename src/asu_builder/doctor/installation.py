"""The machine and what lies on it: Python, SQLite, clock, user, settings, directories and the database.

The database is never opened for writing.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import platform
import sqlite3
import struct
import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from asu_builder.app.keys import open_attestation, open_secrets, open_signing
from asu_builder.database.schema import DAMAGE, known_schema, open_header, result_code
from asu_builder.doctor.scene import Scene, Unanswered
from asu_builder.domain.errors import AsuError, SigningUnavailable
from asu_builder.domain.health import CheckResult, error, ok, warning, worst
from asu_builder.domain.nodes import disagreements
from asu_builder.files import DISK_FULL
from asu_builder.settings import CONFIG_FILES, SettingsProblem

_PYTHON = (3, 11)
_SQLITE = (3, 38, 0)
"""The queue's statements use RETURNING (3.35) and json_each, built in since 3.38."""
_YEARS = range(2025, 2100)
_SLIGHTLY_OFF, _FAR_OFF = 60.0, 600.0
_SET_CLOCK = "timedatectl set-ntp true   (in a virtual machine or container: set the clock of its host)"

_SAME = "install one version on all hosts, and set the same package_changes_path or package_changes_url"


def check_python(_: Scene) -> CheckResult:
    """Whether this Python is one that the program is tested with."""
    found = f"Python {platform.python_version()} ({platform.python_implementation()})"
    if sys.version_info < _PYTHON:
        return error(f"{found} is too old.", "Install Python 3.11 or newer: apt-get install python3.11")
    if sys.platform != "linux":
        return warning(f"{found} on {sys.platform}; builds need Linux.", "Run the service on Linux.")
    return ok(f"{found}.")


def check_sqlite(_: Scene) -> CheckResult:
    """Whether SQLite knows what the queue's statements need, and may be used by threads."""
    found = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _SQLITE:
        least = ".".join(map(str, _SQLITE))
        return error(
            f"{found} is too old; {least} is needed.",
            "Use a newer release of the operating system, or a Python that carries its own SQLite: "
            "uv python install 3.12",
        )
    if sqlite3.threadsafety == 0:
        return error(f"{found} was built without threads.", "apt-get install --reinstall libsqlite3-0")
    return ok(f"{found}.")


def check_clock(scene: Scene) -> CheckResult:
    """Whether the year can be true, and how far the clock is from the download server's."""
    now = datetime.now(UTC)
    if now.year not in _YEARS:
        return error(f"The clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be.", _SET_CLOCK)
    try:
        date = scene.versions().one("date")
        # The answer may have been waited for by another check, so the time is taken once more.
        offset = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (Unanswered, ValueError, TypeError):
        return ok(f"The clock says {now:%Y-%m-%d %H:%M} UTC; the download server could not be compared.")
    if abs(offset) < _SLIGHTLY_OFF:
        return ok("The clock agrees with the download server's.")
    relation = "ahead of" if offset > 0 else "behind"
    units = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
    unit, name = next((unit, name) for unit, name in units if abs(offset) >= 2 * unit)
    sentence = (
        f"The clock says {now:%Y-%m-%d %H:%M} UTC and is {abs(offset) / unit:.0f} {name} {relation} the "
        "download server's."
    )
    if abs(offset) < _FAR_OFF:
        return warning(sentence, _SET_CLOCK)
    return error(f"{sentence} Certificates and the lifetimes of results are judged by it.", _SET_CLOCK)


def check_user(scene: Scene) -> CheckResult:
    """Whether the files of this installation belong to the current user."""
    database = scene.settings.database_path
    try:
        owner = database.stat().st_uid
    except OSError:
        return ok(f"Asked as user {scene.user}.")
    if owner == os.geteuid():
        return ok(f"Asked as user {scene.user}, who owns the database.")
    return warning(
        f"Asked as user {scene.user}, but the database {database} belongs to user number {owner}: "
        "rights and sockets may be others for that user.",
        f"Ask as that user: setpriv --reuid {owner} --init-groups asu-builder doctor",
    )


def check_settings(scene: Scene) -> CheckResult:
    """Whether each setting is one, and has a value that it may have."""
    survey = scene.survey
    files = ", ".join(map(str, survey.read)) or "no file"
    variables = sum(origin.startswith("variable ") for origin in survey.origins.values())
    read = f"Read: {files}, and {variables} variable{'' if variables == 1 else 's'}"
    if survey.problems:
        return error(
            f"{len(survey.problems)} wrong: {'; '.join(survey.problems)}. {read}.",
            "Correct or remove each; docs/settings.md says what each may be. The checks below go by the "
            "default of each that is wrong.",
        )
    for path in survey.read:
        secret = {"api_tokens": "tokens", "store_options": "keys of the object storage"}
        held = [what for name, what in secret.items() if str(path) == survey.origins.get(name)]
        if held and path.stat().st_mode & 0o004:
            return warning(
                f"{path} holds {' and '.join(held)} and may be read by everybody.", f"chmod o-rwx {path}"
            )
    absent = ", ".join(map(str, survey.absent))
    looked = f" (also looked for: {absent})" if absent and len(survey.read) < len(CONFIG_FILES) else ""
    return ok(f"{read}{looked}.")


_REMOTE = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.s3fs", "fuse.rclone")
)
"""SQLite's log needs memory shared between processes, which a network's file system does not give."""
_BUILD_NEEDS = 1 << 30
"""A build's images and its copy of them take less, with room for the container's own layer."""


def check_database_directory(scene: Scene) -> CheckResult:
    """Whether the database can be written where it is to lie."""
    path = scene.settings.database_path
    found = _directory(path.parent, setting="database_path", user=scene.user)
    _, file_system = _mount_of(existing(path.parent))
    if found.status == "error" or file_system not in _REMOTE:
        return found
    return warning(
        f"The database {path} lies on a network's file system ({file_system}), where SQLite may lose rows.",
        "Name a database_path on a local disk.",
    )


def check_store(scene: Scene) -> CheckResult:
    """Whether images can be stored."""
    return _directory(scene.store, setting="public_path", user=scene.user)


def check_disk(scene: Scene) -> CheckResult:
    """Whether the disks of database and store have room above the floor."""
    places = dict.fromkeys((existing(scene.store), existing(scene.settings.database_path.parent)))
    return worst([_room(place, int(scene.settings.disk_floor)) for place in places])


def check_signing(scene: Scene) -> CheckResult:
    """Whether images can be signed now, if they are to be, as far as can be told without signing."""
    try:
        signing = open_signing(scene.settings, lambda: datetime.now(UTC))
        if signing is None:
            return ok("Images are not signed; no signing_key is set.")
        signing.examine()
    except (SettingsProblem, SigningUnavailable) as problem:
        return error(str(problem), "asu-builder keys show")
    return signing.check()


def check_secrets(scene: Scene) -> CheckResult:
    """Whether the key can be read that encrypts scripts and keys of requests, if there is one."""
    if not scene.settings.secrets_key:
        return ok("Scripts and keys of requests are stored as they are; no secrets_key is set.")
    try:
        secrets = open_secrets(scene.settings)
    except SettingsProblem as problem:
        return error(str(problem), "asu-builder keys new-secrets FILE")
    return ok(f"The secrets key {secrets.keys()[0].name} encrypts scripts and keys of requests.")


def check_provenance(scene: Scene) -> CheckResult:
    """Whether it can be stated now where images came from, if it is to be; signs nothing."""
    try:
        attestation = open_attestation(scene.settings)
        if attestation is None:
            return ok("It is not stated where images came from; no provenance_key is set.")
        attestation.examine()
    except (SettingsProblem, SigningUnavailable) as problem:
        return error(str(problem), "asu-builder keys show --provenance")
    return attestation.check()


def existing(path: Path) -> Path:
    """The directory itself, or where it would be made, the nearest one above that is there."""
    path = path.absolute()
    for candidate in (path, *path.parents):
        with contextlib.suppress(OSError):
            if candidate.exists():
                return candidate
    return Path("/")


def _directory(path: Path, *, setting: str, user: str) -> CheckResult:
    place = existing(path)
    if not place.is_dir():
        return error(f"{place} is no directory.", f"Move it away, or name another {setting}.")
    problem = _try_writing(place)
    will = "" if place == path.absolute() else f"; {path} will be made below it"
    if problem == 0:
        return ok(f"{place} can be written{will}.")
    if problem == errno.EROFS:
        return error(
            f"{place} lies on a disk that is mounted read-only.",
            f"mount -o remount,rw {_mount_of(place)[0]}   (or name another {setting}; under systemd add "
            "ReadWritePaths= to the unit)",
        )
    if problem in (errno.EACCES, errno.EPERM):
        return error(f"{place} may not be written by user {user}.", f"chown -R {user} {place}")
    if problem in DISK_FULL:
        return error(
            f"The disk of {place} is full.",
            f"Make room on it (asu-builder gc), or name another {setting}.",
        )
    return error(
        f"{place} takes no file: {os.strerror(problem)}.",
        f"Look for errors of its disk: dmesg | tail   (or name another {setting})",
    )


def _try_writing(place: Path) -> int:
    """The number of the error with which writing, syncing and sharing memory ends; 0 for none."""
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        if failure.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            return failure.errno or errno.EIO
        # A file system without nameless files: the rights alone are looked at.
        return 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    try:
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
        with mmap.mmap(descriptor, 4096) as shared:
            shared[0] = 1
    except OSError as failure:
        return failure.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0


def _room(place: Path, floor: int) -> CheckResult:
    facts = os.statvfs(place)
    free = facts.f_bavail * facts.f_frsize
    sentence = f"The disk of {place} has {free >> 20} MiB free"
    if free <= floor:
        return error(
            f"{sentence}, and new builds are refused below disk_floor ({floor >> 20} MiB).",
            "Make room: asu-builder gc   (or set store_max_size so that it does not come to this, or lower "
            "disk_floor)",
        )
    if facts.f_files and facts.f_favail < 1000:
        return error(
            f"The disk of {place} has only {facts.f_favail} files left to give.",
            f"Find where they are: du --inodes -x {_mount_of(place)[0]} | sort -n | tail",
        )
    if free <= floor + _BUILD_NEEDS:
        return warning(
            f"{sentence}; that is little above disk_floor ({floor >> 20} MiB).",
            "Make room, or set store_max_size so that old results give way earlier.",
        )
    return ok(f"{sentence}.")


def _mount_of(place: Path) -> tuple[Path, str]:
    """Where the disk of a directory is mounted, and its file system."""
    resolved = place.resolve()
    found = Path("/"), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            path = Path(before.split()[4].replace("\\040", " "))
            # The last one mounted at a place covers the others.
            if resolved.is_relative_to(path) and len(path.parts) >= len(found[0].parts):
                found = path, after.split()[0]
    return found


_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_SHARED_AT, _SHARED_LENGTH = 0x40000000 + 2, 510
"""SQLite's bytes for readers: held against others by the process that has the file to itself."""
_WRITING_AT = 120
"""In the -shm file: held by the writer (SQLite's WAL format)."""
_LOG_HEADER, _FRAME_HEADER = 32, 24
_LOOKS, _LOOK_EVERY_SECONDS = 5, 0.2
_SLIGHT_SECONDS = 2.0
"""Between this host's clock and that of PostgreSQL."""
_BACKUP = "Put a backup in its place (docs/backup.md), or move it away to begin with an empty one."


def check_database(scene: Scene) -> CheckResult:
    """Header, schema, and whether another process keeps it to itself."""
    if scene.settings.on_server:
        return check_server(scene.settings.database_url)
    path = scene.settings.database_path
    try:
        if not path.exists():
            return ok(f"There is no {path} yet; the first start makes it.")
        if path.is_dir():
            return error(f"The database {path} is a directory.", "Name a file in it as database_path.")
        with path.open("rb") as file:
            header = file.read(_HEADER)
        size = path.stat().st_size
    except OSError as failure:
        return error(
            f"The database {path} cannot be read by user {scene.user}: {failure.strerror}.",
            f"chown {scene.user} {path}*",
        )
    if not header:
        return ok(f"{path} is empty; the first start fills it.")
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return error(f"The file {path} is no database, or its beginning is damaged.", _BACKUP)
    page = int.from_bytes(header[16:18]) or 1
    page = 65536 if page == 1 else page
    pages, counts_agree = int.from_bytes(header[28:32]), header[24:28] == header[92:96]
    if page & (page - 1) or page < 512 or (counts_agree and size < pages * page):
        return error(f"The database {path} is cut off: {size} bytes of {pages * page}.", _BACKUP)
    try:
        descriptor = open_header(path)
    except AsuError as problem:
        log = path.with_name(f"{path.name}-wal")
        return error(f"{problem}", f"rm {log} {path}-shm")
    if descriptor is not None:
        os.close(descriptor)
    if found := _held(path):
        return found
    for part in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if part.exists() and not os.access(part, os.R_OK | os.W_OK):
            return error(
                f"{part} may not be written by user {scene.user}.",
                f"chown {scene.user} {path}* && chmod u+rw {path}*",
            )
    return _schema(path, header)


def check_server(address: str) -> CheckResult:
    """Whether PostgreSQL takes this host: schema, and how far its clock is from this one."""
    try:
        from asu_builder.database.postgresql_schema import FAR_OFF, look_at, said_ahead  # with psycopg
    except ImportError as failure:
        return error(
            f"PostgreSQL needs what is not installed: {failure}.", "pip install 'asu-builder[cluster]'"
        )
    try:
        found = look_at(address)
    except AsuError as problem:
        return error(f"{problem}", 'psql "$ASU_DATABASE_URL" --command "SELECT version()"')
    clock = f"This host's clock is {said_ahead(found.ahead)} the server's."
    if abs(found.ahead) > FAR_OFF:
        return error(f"{found.name} answers. {clock} No service starts so.", _SET_CLOCK)
    if abs(found.ahead).total_seconds() > _SLIGHT_SECONDS:
        return warning(f"{found.name} answers. {clock}", _SET_CLOCK)
    if found.have < found.known:
        sentence = f"{found.name} has schema {found.have}; the next start brings it to {found.known}. {clock}"
        return warning(sentence, "Make a backup before (pg_dump), then: asu-builder migrate")
    if differing := disagreements(found.nodes):
        return warning(f"{found.name} answers. {differing} {clock}", _SAME)
    return ok(f"{found.name} has schema {found.have}. {clock}")


def _held(path: Path) -> CheckResult | None:
    """Waits a second for a writer, since writing takes milliseconds."""
    memory = path.with_name(f"{path.name}-shm")
    holder: int | None = None
    for _ in range(_LOOKS):
        holder = lock_holder(path, _SHARED_AT, _SHARED_LENGTH)
        if holder is None:
            holder = lock_holder(memory, _WRITING_AT, 1)
        if holder is None:
            return None
        time.sleep(_LOOK_EVERY_SECONDS)
    return error(
        f"The database {path} is held by {described(holder)}; every start and every write waits for it.",
        f"Wait until it is done, or end it: kill {holder or 'PID'}",
    )


def _schema(path: Path, header: bytes) -> CheckResult:
    """Which schema it has, without making or changing any file beside the database.

    Beside a log with content SQLite would write into the memory it shares, so the log is read here,
    and the tables are unknown.
    """
    log = path.with_name(f"{path.name}-wal")
    tables: set[str] | None = None
    try:
        if log.exists() and log.stat().st_size > 0:
            have = int.from_bytes((newest_header(log) or header)[60:64])
        else:
            uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
                (have,) = connection.execute("PRAGMA user_version").fetchone()
                names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                tables = {str(name) for (name,) in names}
    except sqlite3.DatabaseError as failure:
        if result_code(failure) in DAMAGE:
            return error(f"The database {path} is damaged: {failure}.", _BACKUP)
        return warning(f"The database {path} cannot be looked into: {failure}.", f"sqlite3 {path} .tables")
    known = known_schema()
    if tables is not None and "installation" not in tables and (have or tables):
        return error(f"{path} is a database of another program.", "Name another database_path.")
    if have > known:
        return error(
            f"The database {path} was written by a newer version of this program (schema {have}; this one "
            f"knows {known}).",
            "Install that version again, or name another database_path.",
        )
    if have < known:
        return warning(
            f"The database {path} has schema {have}; the next start of this version brings it to {known}, "
            f"and leaves a copy in {path.name}.schema-{have}.backup.",
            f"Make a backup of your own before that start: asu-builder backup asu-builder-schema-{have}.db",
        )
    return ok(f"The database {path} has schema {have}, the newest.")


def newest_header(log: Path) -> bytes | None:
    """The database's first bytes as the last committed transaction in a log left them, if any did.

    Source: "The WAL File Format" in https://sqlite.org/fileformat2.html. Checksums are left to SQLite.
    """
    committed = found = None
    with log.open("rb") as file:
        head = file.read(_LOG_HEADER)
        page, salts = int.from_bytes(head[8:12]), head[16:24]
        while len(frame := file.read(_FRAME_HEADER)) == _FRAME_HEADER and frame[8:16] == salts:
            first = file.read(_HEADER)
            if int.from_bytes(frame[:4]) == 1:
                found = first
            if any(frame[4:8]):
                committed = found
            file.seek(page - len(first), os.SEEK_CUR)
    return committed


_LISTENING = "0A"
_FLOCK = "hhqqi4x"
"""struct flock of fcntl.h on 64-bit Linux: type, whence, start, length, pid."""


def lock_holder(path: Path, start: int, length: int) -> int | None:
    """The pid of a process that keeps others from reading these bytes; 0 when it cannot be told.

    Opens the file, so it is not for a process that has it locked itself: closing drops such locks.
    """
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
    try:
        with path.open("rb") as file:
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def listener(port: int) -> int | None:
    """The pid of the process that listens on a TCP port, where this user may see it."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):  # closed meanwhile
                    if str(descriptor.readlink()) in sockets:
                        return int(process.name)
    return None


def described(pid: int | None) -> str:
    """A process in words: its number and what it runs."""
    if not pid:
        return "another process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        line = b" ".join([Path(os.fsdecode(words[0])).name.encode(), *words[1:4]])
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({line.decode(errors='replace')[:80]})"
