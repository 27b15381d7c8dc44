"""The service as it is, but with documents of upstream that are asked for again after a second."""

from datetime import timedelta

from asu_builder.app.background import Rounds
from asu_builder.cli.serving import serve
from asu_builder.upstream import memory

if __name__ == "__main__":
    memory.FRESH_FOR = timedelta(seconds=1)
    memory._FRESH_SECONDS = 1.0
    serve(rounds=Rounds(health=1.0, queue=1.0, tidy=3.0, catalog=1.0, interest=1.0, rules=1.0))
