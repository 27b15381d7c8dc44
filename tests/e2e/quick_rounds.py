"""The service as it is, but with rounds of background work that come soon: many tests wait for one."""

import sys

from asu_builder.app.background import Rounds
from asu_builder.cli.serving import serve

if __name__ == "__main__":
    serve(
        command=" ".join(sys.argv[1:]) or "serve",
        rounds=Rounds(health=1.0, queue=1.0, nodes=1.0, tidy=3.0, catalog=1.0, interest=1.0, rules=1.0),
    )
