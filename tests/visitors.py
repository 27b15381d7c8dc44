"""Who visits a page: anybody, or the holder of a token with or without rights."""

from asu_builder.domain.access import Right, Token, digest_of

READER = {"cookie": "asu_token=may-read"}
OPERATOR = {"cookie": "asu_token=may-operate"}
BUILDER = {"cookie": "asu_token=may-build"}

TOKENS = (
    Token("rita", digest_of("may-read"), frozenset({Right.READ})),
    Token("olga", digest_of("may-operate"), frozenset({Right.OPERATE})),
    Token("farm", digest_of("may-build")),
)
