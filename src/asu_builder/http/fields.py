"""How a field of a document is described for people; the schema is made of it."""

import msgspec


def says(text: str, *examples: object, **schema: object) -> msgspec.Meta:
    """What a field means, with examples and further words of JSON Schema. None of it is enforced."""
    return msgspec.Meta(description=text, examples=list(examples), extra_json_schema=schema or None)


HASH_PATTERN = "^[0-9a-f]{64}$"


A_HASH = "4be1a1f3c0d24f0e8d7c5b9a6f3e2d1c4be1a1f3c0d24f0e8d7c5b9a6f3e2d1c"


A_REVISION = "r28959-29397011cc"


A_SENTENCE = "Unsupported version: 24.10.99"
