"""The service keeps what `/openapi.json` promises, for whatever may be asked and whatever lies in etcd."""

import json
import re
from collections.abc import Iterator
from itertools import islice, product
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from configsvc.core.model import Scope, head_path, schema_path
from configsvc.etcd.local import LocalEtcd
from configsvc.web import openapi
from configsvc.web.route import Route
from configsvc.web.routes import ANY_ROUTE, ROUTES
from tests.support.etcd import newest, options
from tests.support.process import Hand, ServiceProcess

DOCUMENT: dict[str, Any] = json.loads(openapi.document(ROUTES, ANY_ROUTE))
STREAMS = [route.path for route in ROUTES if route.lasting]

FULL = Scope("shop", "production")
GARBAGE = Scope("shop", "staging")
RULES_ONLY = Scope("rules", "production")
LARGE = Scope("payments", "production")
VALUES: dict[str, Any] = {
    "database.host": "db",
    "database.pool_size": 10,
    "none": None,
    "list": [1, {"deep": [True, 2.5, None]}],
    "ключ": "значение \u2028 \U0001f600",
    "with space and 100%": -(2**63),
    "a?#&=+;": 2**64 - 1,
}
GARBAGE_KEYS = ["no-json", "no-value", "no-object", "no-utf8", "deep"]
KEYS = [*VALUES, *GARBAGE_KEYS, "retries", "k7", "database.hots", "absent", "x" * 1024]


def store(etcd: LocalEtcd) -> None:
    """Scopes of every kind, and what no program should have written."""
    head = {"format": 1, "release": 3, "version": "v1.2", "id": "id3"}
    rules = {"retries": {"type": "integer", "default": 3}, "database.host": {"type": "string"}}
    full, garbage = Hand(etcd, FULL), Hand(etcd, GARBAGE)
    full.write(VALUES)
    Hand(etcd, LARGE).write({f"k{n}": "x" * 100 for n in range(100)})
    garbage.write({"good": 1})
    directory = f"/config/{GARBAGE}/".encode()
    garbage.put_raw(
        {
            head_path(FULL): json.dumps(head).encode(),
            head_path(RULES_ONLY): json.dumps(head).encode(),
            schema_path("shop"): json.dumps({"format": 1, "schema": rules}).encode(),
            schema_path("rules"): json.dumps({"format": 1, "schema": rules}).encode(),
            schema_path("payments"): b"no schema",
            head_path(GARBAGE): b'{"format": 1, "release": "three"}',
            directory + b"no-json": b"{",
            directory + b"no-value": b'{"version": "v1"}',
            directory + b"no-object": b"[1]",
            directory + b"no-utf8": b'{"value": "\xff"}',
            directory + b"deep": b'{"value": ' + b"[" * 200 + b"]" * 200 + b"}",
            directory + b"a/b": b'{"value": 1}',
            directory + b"\xff\x00": b'{"value": 1}',
            b"/config/shop": b"",
            b"/config//production/key": b'{"value": 1}',
        }
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A central service over a store of its own."""
    with LocalEtcd(options=options(newest())) as etcd:
        store(etcd)
        environ = {"CONFIGSVC_MODE": "central", "ETCD_ENDPOINTS": etcd.url, "CONFIGSVC_HEARTBEAT_S": "0.5"}
        with ServiceProcess(tmp_path_factory.mktemp("openapi"), **environ) as service:
            service.start()
            yield service
            assert service.stop() == 0
            assert [line for line in service.log() if line["level"] in ("error", "critical")] == []


schema = schemathesis.openapi.from_dict(DOCUMENT)
REJECTION = schema.config.checks.negative_data_rejection
# A key can be so long that the request line is refused before anybody looks at the key.
REJECTION.expected_statuses = [*REJECTION.expected_statuses, "431"]
# What is well formed may still not be so now.
ACCEPTANCE = schema.config.checks.positive_data_acceptance
ACCEPTANCE.expected_statuses = [*ACCEPTANCE.expected_statuses, "412", "422"]


SCOPES = st.sampled_from([FULL, GARBAGE, RULES_ONLY, LARGE, Scope("absent", "production")])
KNOWN = st.fixed_dictionaries({"scope": SCOPES, "key": st.sampled_from(KEYS), "reached": st.booleans()})


@schema.hook
def before_generate_case(context: schemathesis.HookContext, strategy: st.SearchStrategy[schemathesis.Case]) -> Any:
    """As often as not, ask for what may be there: random names would find nothing but 404."""

    def place(case: schemathesis.Case, known: dict[str, Any] | None) -> schemathesis.Case:
        if known and "ns" in (case.path_parameters or {}):
            case.path_parameters.update(ns=known["scope"].namespace, env=known["scope"].environment)
            if "key" in case.path_parameters:
                case.path_parameters["key"] = known["key"]
            if known["reached"] and "min_revision" in (case.query or {}):
                case.query["min_revision"] = "1"
            if known["reached"] and "If-None-Match" in (case.headers or {}):
                case.headers["If-None-Match"] = "*"
        return case

    return st.builds(place, strategy, st.one_of(KNOWN, KNOWN, st.none()))


NOT_IN_THE_SCHEMA = ("invalid_body", "invalid_values", "invalid_key", "invalid_header")
"""What bodies and keys may hold is more than JSON Schema can say: normal forms, bytes, a backup's checksum. And an
If-Match is not made from its pattern where quotes are in it."""
TEXTS = ("reason", "force", "digest", "approved_by", "git_commit", "from")
"""Only what can be printed is taken; and nothing is promoted from an environment to itself."""
ROUTE_OF = {(method, route.path): route for route in ROUTES for method in route.methods}


def _is_lost(case: schemathesis.Case) -> bool:
    """Whether a parameter is an empty list or object: in a URL there is nothing of it."""
    return any(value in ([], {}) for value in (case.query or {}).values())


def _has_unknown_parameters(case: schemathesis.Case) -> bool:
    """Reads pass over what they do not know."""
    route = ROUTE_OF.get((case.method, case.operation.path))
    return route is not None and not route.writes and bool(set(case.query or ()) - route.query_readers.keys())


@schema.exclude(path_regex="^/v1/(watch|ws)/").parametrize()
@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_promised(case: schemathesis.Case, service: ServiceProcess) -> None:
    wait_s = (case.query or {}).get("wait_s", 5)
    if "min_revision" in (case.query or {}) and isinstance(wait_s, int | float) and wait_s > 0:
        # A revision that does not come is waited for, and there is no need to.
        case.query["wait_s"] = 0
    response = case.call(base_url=service.url, timeout=10)
    excluded: list[Any] = []
    problem = response.json() if response.status_code == 400 and case.method != "HEAD" else {}
    if problem.get("code") in NOT_IN_THE_SCHEMA or problem.get("parameter") in TEXTS or case.method == "HEAD":
        excluded.append(positive_data_acceptance)
    if _has_unknown_parameters(case) or _is_lost(case):
        excluded.append(negative_data_rejection)
    if response.status_code == 503:
        assert "min_revision" in case.query, "nothing else makes a service that is ready answer 503"
        assert case.method == "HEAD" or response.json()["code"] == "revision_not_reached"
        excluded.append(not_a_server_error)
    case.validate_response(response, excluded_checks=excluded)


# ---- what is there, asked in every way: random requests may miss it --------------------------------------------------


@pytest.mark.parametrize("scope", [FULL, GARBAGE, RULES_ONLY, LARGE], ids=str)
def test_reads_of_what_is_there_are_as_promised(scope: Scope, service: ServiceProcess) -> None:
    paths = {f"/v1/config/{scope}": "/v1/config/{ns}/{env}"}
    body = requests.get(f"{service.url}/v1/config/{scope}", timeout=10).json()
    assert set(body["values"]) & {"database.host", "good", "retries", "k7"}
    for key in [*body["values"], "absent"]:
        paths[f"/v1/config/{scope}/{quote(key, safe='')}"] = "/v1/config/{ns}/{env}/{key}"
    queries = ["", "?view=entries", "?view=x", "?raw=true", "?min_revision=1", "?min_revision=9999&wait_s=0"]
    queries += [f"?min_revision={body['epoch']}:1", "?min_revision=ffffffffffff:1", "?wait_s=-1", "?min_revison=1"]
    conditions = [None, "*", f'"{body["epoch"]}:{body["revision"]}"', 'W/"a", "b"', "nonsense"]
    statuses = set()
    with requests.Session() as session:
        for path, template in islice(paths.items(), 12):
            for query, condition, method in product(queries, conditions, ("GET", "HEAD")):
                headers = {} if condition is None else {"If-None-Match": condition}
                response = session.request(method, service.url + path + query, headers=headers, timeout=10)
                assert response.status_code < 500 or "min_revision=9999" in query
                schema[template][method].validate_response(response)
                statuses.add(response.status_code)
    assert statuses >= {200, 304, 400, 409, 503}


# ---- streams: their success has no end, so each refusal is asked for by name -----------------------------------------

REFUSED: list[tuple[str, dict[str, str], int]] = [
    ("_meta/production", {}, 400),
    ("shop/..", {}, 400),
    ("shop/%zz", {}, 400),
    ("shop/%ff", {}, 400),
    ("sh%20op/production", {}, 400),
    ("shop/production?last_event_id=1&last_event_id=2", {}, 400),
    ("shop/production?lastEventId=1", {}, 400),
    ("shop/production?last_event_id=%ff", {}, 400),
    ("shop/production", {"Content-Length": "100000"}, 413),
    ("shop/production", {"Content-Length": "2", "Content-Encoding": "gzip"}, 415),
    ("shop/production", {"X-Large": "x" * 20_000}, 431),
    ("shop/production/key", {}, 404),
]


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(("target", "headers", "status"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_refused_streams_are_as_promised(
    path: str, target: str, headers: dict[str, str], status: int, service: ServiceProcess
) -> None:
    prefix = path.partition("{")[0]
    response = get_as_it_is(service.url, prefix + target, headers)
    assert response.status_code == status
    if status == 404:
        assert response.json()["code"] == "route_not_found"
    else:
        operation(path).validate_response(response)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", STREAMS)
def test_streams_take_no_other_method(path: str, method: str, service: ServiceProcess) -> None:
    response = requests.request(method, service.url + path.format(ns="shop", env="production"), timeout=10)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET"


def test_a_stream_begins_as_promised(service: ServiceProcess) -> None:
    for scope in (FULL, GARBAGE, RULES_ONLY, Scope("absent", "production")):
        with requests.get(f"{service.url}/v1/watch/{scope}", stream=True, timeout=10) as response:
            (media,) = operation("/v1/watch/{ns}/{env}").definition.raw["responses"]["200"]["content"]
            assert response.status_code == 200
            assert response.headers["Content-Type"].partition(";")[0] == media
            assert any(line == b"event: snapshot" for line in response.iter_lines())


def test_a_websocket_needs_its_handshake(service: ServiceProcess) -> None:
    response = requests.get(f"{service.url}/v1/ws/shop/production", timeout=10)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_header")
    operation("/v1/ws/{ns}/{env}").validate_response(response)


def operation(path: str) -> Any:
    return schema[path]["GET"]


def get_as_it_is(url: str, target: str, headers: dict[str, str]) -> requests.Response:
    """GET whose path no library has made nicer, and whose headers are sent as they are; no body follows."""
    request = requests.Request("GET", url, headers=headers).prepare()
    request.url = url + target
    request.headers = CaseInsensitiveDict(headers)
    with requests.Session() as session:
        session.trust_env = False
        return session.send(request, timeout=10)


# ---- the document itself ---------------------------------------------------------------------------------------------


def test_it_is_served_as_it_was_made(service: ServiceProcess) -> None:
    response = requests.get(f"{service.url}/openapi.json", timeout=10)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == DOCUMENT


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    schema.validate()
    ids = [o["operationId"] for methods in DOCUMENT["paths"].values() for o in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_schema_in_it_is_json_schema() -> None:
    components = DOCUMENT["components"]["schemas"]
    assert components
    for name, one in components.items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **one}), name


def test_every_reference_in_it_leads_somewhere() -> None:
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', json.dumps(DOCUMENT, separators=(",", ":"))))
    assert references
    for reference in references:
        found: Any = DOCUMENT
        for part in reference.split("/"):
            found = found[part]


def test_every_route_is_in_it_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(method, route.path) for route in ROUTES for method in route.methods}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_what_a_row_says_is_in_it(route: Route) -> None:
    described = DOCUMENT["paths"][route.path][route.method.lower()]
    parameters = {(one["in"], one["name"]) for one in described["parameters"]}
    assert parameters == (
        {("path", name) for name in re.findall(r"\{(\w+)\}", route.path)}
        | {("query", parameter.name) for parameter in route.query}
        | {("header", parameter.name) for parameter in route.headers}
    )
    statuses = {answer.status for answer in route.answers} | set(route.problems) | set(ANY_ROUTE)
    assert described["responses"].keys() == {str(status) for status in statuses}
