"""`/openapi.json`, made from the route table: what is not in a row is not promised, and what is in one is kept.

Pure. Tests hold the service to this document, so that it cannot drift from what is answered.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from configsvc import __version__
from configsvc.errors import ALL
from configsvc.web import messages, problems
from configsvc.web.route import Answer, Parameter, Route
from configsvc.web.syntax import KEY_SCHEMA, NAME_SCHEMA, VERSION_SCHEMA

REFERENCE = "#/components/schemas/{name}"
PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "ns": {"description": "The namespace.", "schema": NAME_SCHEMA},
    "env": {"description": "The environment.", "schema": NAME_SCHEMA},
    "key": {
        "description": "The key; dots are literal. At most 1,024 bytes of UTF-8.",
        "schema": KEY_SCHEMA,
    },
    "version": {
        "description": "A version label, or a release as `@17`; bare digits are a label first, then a number.",
        "schema": VERSION_SCHEMA,
    },
}
HEADERS = {
    "ETag": "`epoch:revision` of the scope's last change; weak where the body is compressed.",
    "Cache-Control": "Always to be revalidated.",
    "Vary": "Bodies may be compressed.",
    "Configsvc-Revision": "The revision up to which this replica has seen everything.",
    "Configsvc-Staleness": "Seconds since it last had; 0 while live.",
    "Configsvc-Source": "`live`, `memory` or `disk`.",
}


def document(routes: Iterable[Route], everywhere: Iterable[int]) -> bytes:
    """The description of `routes`; `everywhere` are the statuses of problems that each of them may answer."""
    routes = tuple(routes)
    everywhere = tuple(everywhere)
    types = {t for row in routes for answer in row.answers for types in answer.content.values() for t in types or ()}
    named = sorted(
        (t for t in types if isinstance(t, type) and issubclass(t, msgspec.Struct)), key=lambda t: t.__name__
    )
    _, components = msgspec.json.schema_components([*named, messages.Problem], ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for row in routes:
        for method in row.methods:
            paths.setdefault(row.path, {})[method.lower()] = _operation(row, method, everywhere)
    statuses = {status for row in routes for status in row.problems} | set(everywhere)
    body = {
        "openapi": "3.1.0",
        "info": {
            "title": "configsvc",
            "version": __version__,
            "description": "Configuration from etcd: snapshots, single keys, and streams of changes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {f"Problem{status}": _problem(status) for status in sorted(statuses)},
        },
    }
    return msgspec.json.encode(body)


def _operation(row: Route, method: str, everywhere: tuple[int, ...]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, **described}
        for name, described in PATH_PARAMETERS.items()
        if f"{{{name}}}" in row.path
    ]
    parameters += [_parameter(parameter, "query") for parameter in row.query]
    parameters += [_parameter(parameter, "header") for parameter in row.headers]
    responses: dict[str, Any] = {str(answer.status): _answer(answer, method) for answer in row.answers}
    for status in sorted({*row.problems, *everywhere}):
        described = {"$ref": f"#/components/responses/Problem{status}"}
        responses.setdefault(str(status), {"description": _titles(status)} if method == "HEAD" else described)
    body: dict[str, Any] = {}
    if row.body is not None:
        content = {media: {"schema": dict(row.body.schema)} for media in row.body.media}
        body = {"requestBody": {"required": True, "content": content}}
    return {
        "operationId": f"{method.lower()}_{row.handler.__module__.rpartition('.')[2]}_{row.handler.__name__}",
        "summary": row.summary,
        "parameters": parameters,
        **body,
        "responses": responses,
    }


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    described = {"name": parameter.name, "in": where, "description": parameter.description, "schema": parameter.schema}
    return described | ({"required": True} if parameter.required else {})


def _answer(answer: Answer, method: str) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in answer.headers
        }
    if answer.content and method != "HEAD":
        described["content"] = {media: {"schema": _schema(types)} for media, types in answer.content.items()}
    return described


def _schema(types: tuple[Any, ...] | None) -> dict[str, Any]:
    if types is None:
        return {"type": "string"}
    schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)[0]
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _problem(status: int) -> dict[str, Any]:
    codes = [code for error in ALL if error.status == status for code in error.codes]
    schema = {
        "allOf": [
            {"$ref": REFERENCE.format(name="Problem")},
            {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
        ]
    }
    return {"description": _titles(status), "content": {problems.MEDIA_TYPE: {"schema": schema}}}


def _titles(status: int) -> str:
    return "; ".join(title for error in ALL if error.status == status for title in error.codes.values())
