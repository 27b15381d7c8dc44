"""What SQLite is told, as PostgreSQL is told it."""

import pytest

from asu_builder.database.dialect import translate


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT a FROM b WHERE c = ? AND d < ?", "SELECT a FROM b WHERE c = %s AND d < %s"),
        ("WHERE c = :name AND d = :other_1", "WHERE c = %(name)s AND d = %(other_1)s"),
        ("WHERE c LIKE :own || '%' AND d = '?:no %'", "WHERE c LIKE %(own)s || '%%' AND d = '?:no %%'"),
        ("WHERE a = 'it''s :one?' AND b % 2 = ?", "WHERE a = 'it''s :one?' AND b %% 2 = %s"),
        ("SELECT a::text, :b::bigint", "SELECT a::text, %(b)s::bigint"),
        ("LIMIT 1 /*postgresql FOR UPDATE SKIP LOCKED*/)", "LIMIT 1 FOR UPDATE SKIP LOCKED)"),
        ("SELECT '/*postgresql no*/'", "SELECT '/*postgresql no*/'"),
    ],
)
def test_values_are_marked_as_psycopg_wants_them_and_text_is_left_alone(statement: str, told: str) -> None:
    assert translate(statement) == told
