"""What an operator is told of a PostgreSQL server that cannot be used."""

from pathlib import Path

import psycopg
import pytest

from asu_builder.database.postgresql_schema import unusable

_START = "Start the server or mend the way to it; if it is elsewhere, correct database_url."
_CORRECT = "Correct database_url."


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            'connection failed: connection to server at "192.0.2.1", port 5432 failed: Connection refused',
            _START,
        ),
        ("connection timeout expired", _START),
        ("connection failed: could not receive data from server: Connection timed out", _START),
        ("connection failed: server closed the connection unexpectedly", _START),
        ('connection failed: connection to server at "192.0.2.1" failed: No route to host', _START),
        ('connection failed: connection to server at "::1" failed: Network is unreachable', _START),
        ("[Errno -2] Name or service not known", _CORRECT),
        ('invalid sslmode value: "perhaps"', _CORRECT),
        (
            'connection failed: FATAL:  password authentication failed for user "asu"',
            "Correct user and password",
        ),
        ('connection failed: FATAL:  database "asu" does not exist', "Make it (createdb, createuser)"),
    ],
)
def test_the_remedy_is_for_what_the_server_or_the_way_to_it_said(said: str, remedy: str) -> None:
    told = str(unusable("postgresql://asu:secret@192.0.2.1/asu", psycopg.OperationalError(said)))
    assert remedy in told and "secret" not in told


def test_a_server_that_is_not_there_is_to_be_started(tmp_path: Path) -> None:
    address = f"postgresql:///asu?host={tmp_path}"
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(address)
    assert _START in str(unusable(address, refused.value))
