"""A Sphinx extension: puts what the program itself says into the reference, where a comment asks for it."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_LISTED = re.compile(r"^- \[[^\]]+\]\(([^):#]+)\.md\)", re.MULTILINE)
_REFERENCE = "#/components/schemas/"
_METHODS = ("get", "head", "post", "put", "delete")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Any, name: str, source: list[str]) -> None:
    source[0] = filled(source[0])


def filled(text: str) -> str:
    """A page with its generated parts; `KeyError` for one that nobody can make."""
    return _PLACE.sub(lambda match: PARTS[match[1]](text), text)


def contents(text: str) -> str:
    """What Sphinx calls toctrees: the pages that the lists of this page link to, by their headings."""
    trees = []
    for section in re.split(r"^##? ", text, flags=re.MULTILINE):
        if pages := _LISTED.findall(section):
            caption = section.partition("\n")[0]
            trees.append("\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *pages, "```"]))
    return "\n\n".join(trees)


def commands(_: str) -> str:
    """Each command with its options."""
    from asu_builder.cli import main

    return "\n\n".join(_command("asu-builder", main, click.Context(main, info_name="asu-builder")))


def _command(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _command(f"{path} {name}", below, click.Context(below, context, info_name=name))


def interface(_: str) -> str:
    """Each address with its parameters and answers, and each document with its fields."""
    from asu_builder import __version__
    from asu_builder.http.openapi import describe
    from asu_builder.http.routes import OPERATIONS

    description = describe(OPERATIONS, version=__version__)
    addresses = [_address(path, entry) for path, entry in description["paths"].items()]
    schemas = sorted(description["components"]["schemas"].items())
    documents = [_document(name, schema) for name, schema in schemas]
    return "\n\n".join(["## Addresses", *addresses, "## Documents", *documents])


def _address(path: str, entry: Mapping[str, Any]) -> str:
    does: dict[str, list[str]] = {}
    for method in _METHODS:
        if method in entry:
            does.setdefault(entry[method]["summary"], []).append(method)
    return "\n\n".join(_operation(path, entry, methods) for methods in does.values())


def _operation(path: str, entry: Mapping[str, Any], methods: list[str]) -> str:
    operation = entry[methods[0]]
    lines = [f"### {', '.join(methods).upper()} `{path}`", "", operation["summary"]]
    if sent := operation.get("requestBody"):
        lines += ["", f"Send {_linked(sent)}."]
    if parameters := [*entry.get("parameters", ()), *operation.get("parameters", ())]:
        lines += ["", "| parameter | means |", "|---|---|"]
        lines += [f"| `{one['name']}` | {_cell(one['description'])} |" for one in parameters]
    lines += ["", "| status | answer | document |", "|---|---|---|"]
    for status, answer in sorted(operation["responses"].items()):
        lines.append(f"| {status} | {_cell(answer['description'])} | {_linked(answer)} |")
    return "\n".join(lines)


def _document(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"({_target(name)})=", f"### {name}", "", schema.get("description", "")]
    if "enum" in schema:
        lines += ["", "One of " + ", ".join(f"`{word}`" for word in schema["enum"]) + "."]
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        lines += ["", "| field | type | means |", "|---|---|---|"]
        for field, kind in properties.items():
            optional = "" if field in required else ", optional"
            lines.append(f"| `{field}` | {_type(kind)}{optional} | {_cell(kind.get('description', ''))} |")
    return "\n".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(choice) for choice in schema["anyOf"]))
    if "$ref" in schema:
        return _link(schema["$ref"])
    kind = str(schema.get("type", "anything"))
    inner = schema.get("items") or schema.get("additionalProperties")
    return f"{kind} of {_type(inner)}" if isinstance(inner, dict) and inner else kind


def _linked(part: Mapping[str, Any]) -> str:
    return ", ".join(_link(reference) for reference in sorted(set(_references(part.get("content", {})))))


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield str(schema["$ref"])
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            yield from _references(value)


def _link(reference: str) -> str:
    name = reference.removeprefix(_REFERENCE)
    return f"[{name}](#{_target(name)})"


def _target(name: str) -> str:
    return f"document-{name.lower()}"


def _cell(text: str) -> str:
    """Text that ends neither its cell nor its row."""
    return " ".join(text.split()).replace("|", "\\|").replace("{", "\\{").replace("<", "\\<")


PARTS: Mapping[str, Callable[[str], str]] = {
    "commands": commands,
    "contents": contents,
    "interface": interface,
}
