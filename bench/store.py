"""Images from object storage: what a megabyte costs the service beside one from its disk, and its memory."""

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from json import dumps
from pathlib import Path

from asu_builder.database.connection import Database
from asu_builder.domain.job import StoredFiles
from asu_builder.settings import Settings
from asu_builder.store.bucket import Bucket
from bench.downloads import MB, NAME, SIZE, spend
from bench.figures import Figure, Yardstick, alternate
from bench.process import resident_bytes, settle
from bench.sample import FINISHED, seed
from bench.scenarios import seeded, service

_TESTS = Path(__file__).parents[1] / "tests"


def storing(*, rounds: int) -> Iterator[Figure]:
    """CPU a megabyte, whole and in parts, each beside the same file on the disk; and what both take."""
    sys.path.insert(0, str(_TESTS))
    from object_storage import s3_server  # starts SeaweedFS from its wheel
    from run_folder import RunFolder, base_folders

    run = RunFolder(*base_folders())  # ends the server with this process
    image = NAME.partition("/")[2]
    try:
        s3 = s3_server()
        bucket = Bucket(Settings(store_url=s3.place("bench"), store_options=s3.options()))
        with seeded() as folder, tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
            seed(Path(name), files=StoredFiles("bench.1", {image: SIZE}, datetime.now(UTC)))
            database = Database(Path(name) / "bench.db")
            bucket.put(f".store-of-{database.installation()}")
            database.close()
            path = folder / "public" / "store" / NAME
            path.write_bytes(os.urandom(SIZE))
            bucket.upload(f"{FINISHED}/bench.1/{image}", path, attributes={})
            in_bucket_service = partial(service, store_url=bucket.url, store_options=dumps(s3.options()))
            with service(folder) as on_disk, in_bucket_service(Path(name)) as in_bucket:
                for server in (on_disk, in_bucket):
                    settle(server)
                whole, parts = range(0, SIZE, SIZE), range(0, SIZE, MB)
                spent = alternate(
                    rounds,
                    {
                        f"{kind} {how}": partial(spend, server, f"/store/{NAME}", steps)
                        for kind, server in (("disk", on_disk), ("bucket", in_bucket))
                        for how, steps in (("whole", whole), ("parts", parts))
                    },
                )
                memory = [resident_bytes(server.pid) / (1 << 20) for server in (in_bucket, on_disk)]
    finally:
        run.close(keep=False)
    for how, name in (("whole", "10 MB image"), ("parts", "10 MB image in parts of 1 MB")):
        beside = Yardstick("from the disk", spent[f"disk {how}"])
        yield Figure(f"{name} from object storage, CPU a MB", "ms", spent[f"bucket {how}"], None, beside)
    yield Figure("memory after downloads from object storage", "MB", memory[:1])
    yield Figure("memory after downloads from the disk", "MB", memory[1:])
