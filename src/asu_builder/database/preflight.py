"""What builds have taught about foretelling, in SQL, with a small memory before it."""

import math
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.rows import moment
from asu_builder.domain.package_index import PackageManager
from asu_builder.domain.preflight import CarriedPackages, PreflightMode, TargetRecord

_LOOK_AGAIN_SECONDS = 5.0
"""How soon it is known here what another process has written."""
_MEMORY_BYTES = 8 << 20
_MEMORY_ENTRIES = 2000
_STORED_BYTES = 32 << 20
_STORED_ROWS = 4000
_REPOSITORIES = msgspec.json.Decoder(tuple[str, ...])
_FOLDERS = msgspec.msgpack.Decoder(dict[str, bytes])
_PINS = msgspec.json.Decoder(dict[str, str])

_LEARN = """
    INSERT INTO imagebuilders (release_path, target, identity, revision, manager, package_index,
                               repositories, folders, pins, learnt_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (release_path, target) DO UPDATE
       SET identity = excluded.identity, revision = excluded.revision, manager = excluded.manager,
           package_index = excluded.package_index, repositories = excluded.repositories,
           folders = excluded.folders, pins = excluded.pins, learnt_at = excluded.learnt_at
"""
_FORGET = """
    DELETE FROM imagebuilders WHERE (release_path, target) IN (
        SELECT release_path, target FROM (
            SELECT release_path, target,
                   row_number() OVER newest AS place,
                   sum(length(package_index) + length(folders) + length(repositories)) OVER newest AS total
              FROM imagebuilders WINDOW newest AS (ORDER BY learnt_at DESC, release_path, target)
        ) AS placed WHERE place > ? OR total > ?)
"""


_AGREED = """
    INSERT INTO preflight_targets (release_path, target, mode, since, sampled)
    VALUES (:release_path, :target, 'enforce', :now, 1)
    ON CONFLICT (release_path, target) DO UPDATE SET sampled = preflight_targets.sampled + 1
"""
_DISAGREED = """
    INSERT INTO preflight_targets (release_path, target, mode, since, sampled, disagreements,
                                   last_disagreement)
    VALUES (:release_path, :target, 'advise', :now, 1, 1, :text)
    ON CONFLICT (release_path, target) DO UPDATE
       SET sampled = preflight_targets.sampled + 1,
           disagreements = preflight_targets.disagreements + 1,
           last_disagreement = excluded.last_disagreement,
           since = CASE preflight_targets.mode WHEN 'advise' THEN preflight_targets.since
                   ELSE excluded.since END,
           mode = 'advise'
"""


class _Known(Struct):
    """What was read of one row, and when; `learnt_at` is 0 where there was none."""

    carried: CarriedPackages | None
    learnt_at: int
    looked_at: float

    @property
    def size(self) -> int:
        if self.carried is None:
            return 0
        return len(self.carried.index) + sum(map(len, self.carried.folders.values()))


class SqlPreflightRecords:
    """Fulfils `ports.PreflightRecords` on the embedded database; safe to use from any thread."""

    def __init__(
        self,
        database: SqlDatabase,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_rows: int = _STORED_ROWS,
        most_bytes: int = _STORED_BYTES,
    ) -> None:
        """`clock` counts seconds; `most_rows` and `most_bytes` (packed) are kept of ImageBuilders."""
        self._database = database
        self._clock = clock
        self._bounds = most_rows, most_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._size = 0
        self._targets: Mapping[tuple[str, str], TargetRecord] = {}
        self._targets_read_at = -math.inf

    def carried(self, release_path: str, target: str) -> CarriedPackages | None:
        key, now = (release_path, target), self._clock()
        known = self._known.get(key)
        if known is not None and now - known.looked_at < _LOOK_AGAIN_SECONDS:
            return known.carried
        with self._database.reading(snapshot=True) as connection:
            where = "FROM imagebuilders WHERE release_path = ? AND target = ?"
            row = connection.execute(f"SELECT learnt_at {where}", key).fetchone()
            learnt_at = row[0] if row else 0
            if known is not None and known.learnt_at == learnt_at:
                known.looked_at = now
                return known.carried
            row = connection.execute(
                f"SELECT identity, revision, manager, package_index, repositories, folders, pins {where}", key
            ).fetchone()
        carried = None
        if row is not None:
            identity, revision, manager, index, repositories, folders, pins = row
            carried = CarriedPackages(
                identity,
                revision,
                PackageManager(manager),
                zlib.decompress(index),
                _REPOSITORIES.decode(repositories),
                _FOLDERS.decode(zlib.decompress(folders)),
                _PINS.decode(pins),
            )
        self._remember(key, _Known(carried, learnt_at, now))
        return carried

    def learn(self, release_path: str, target: str, carried: CarriedPackages) -> None:
        key = (release_path, target)
        packed = zlib.compress(carried.index)
        with self._database.writing() as connection:
            (last,) = connection.execute("SELECT coalesce(max(learnt_at), 0) FROM imagebuilders").fetchone()
            # Never the same as before: it is how other processes see that there is something new.
            learnt_at = max(self._database.now(), last + 1)
            connection.execute(
                _LEARN,
                (
                    *key,
                    carried.identity,
                    carried.revision,
                    carried.manager,
                    packed,
                    msgspec.json.encode(carried.repositories).decode(),
                    zlib.compress(msgspec.msgpack.encode(carried.folders)),
                    msgspec.json.encode(carried.pins).decode(),
                    learnt_at,
                ),
            )
            connection.execute(_FORGET, self._bounds)
        self._remember(key, _Known(carried, learnt_at, self._clock()))

    def targets(self) -> Mapping[tuple[str, str], TargetRecord]:
        now = self._clock()
        if now - self._targets_read_at >= _LOOK_AGAIN_SECONDS:
            with self._database.reading() as connection:
                rows = connection.execute(
                    "SELECT release_path, target, mode, since, sampled, disagreements, last_disagreement"
                    " FROM preflight_targets ORDER BY release_path, target"
                ).fetchall()
            self._targets = {
                (release_path, target): TargetRecord(
                    release_path, target, PreflightMode(mode), moment(since), *rest
                )
                for release_path, target, mode, since, *rest in rows
            }
            self._targets_read_at = now
        return self._targets

    def note_sample(self, release_path: str, target: str, *, disagreement: str = "") -> None:
        values = {
            "release_path": release_path,
            "target": target,
            "now": self._database.now(),
            "text": disagreement,
        }
        with self._database.writing(durable=True) as connection:
            connection.execute(_DISAGREED if disagreement else _AGREED, values)
        self._targets_read_at = -math.inf

    def enforce(self, release_path: str, target: str) -> bool:
        with self._database.writing(durable=True) as connection:
            cursor = connection.execute(
                "UPDATE preflight_targets SET mode = 'enforce', since = ?"
                " WHERE release_path = ? AND target = ? AND mode = 'advise'",
                (self._database.now(), release_path, target),
            )
        self._targets_read_at = -math.inf
        return cursor.rowcount == 1

    def _remember(self, key: tuple[str, str], known: _Known) -> None:
        with self._lock:
            former = self._known.pop(key, None)
            self._known[key] = known
            self._size += known.size - (former.size if former else 0)
            while len(self._known) > 1 and (self._size > _MEMORY_BYTES or len(self._known) > _MEMORY_ENTRIES):
                _, dropped = self._known.popitem(last=False)
                self._size -= dropped.size
