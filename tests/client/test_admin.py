"""The management client against servers that misbehave: what is sent, where, how often, and what is made of it."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from configsvc_client import InvalidOption
from configsvc_client.admin import AdminClient, AdminError, AsyncAdminClient
from configsvc_client.view import MISSING

WRITTEN = {"release": 2, "revision": 9, "epoch": "0" * 12, "version": None, "changes": [], "warnings": []}
PLANNED = {
    "epoch": "0" * 12,
    "version": None,
    "changes": [{"key": "a", "op": "set", "new": None}],
    "warnings": [],
    "digest": "1-ab",
    "base_release": 1,
    "blocked": [],
}
SELF = {"service": "configsvc", "namespace": "a", "environment": "b"}


def problem(status, code, retry_after=None, **fields):
    body = {"type": "x", "title": "x", "status": status, "code": code, "detail": f"it is {code}", **fields}
    headers = {"Retry-After": retry_after} if retry_after else {}

    async def answer(request):
        return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")

    return answer


class Server:
    """Answers in order what the test says, the last of it for ever; remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen = []
        self.url = ""

    async def handle(self, request):
        body = await request.read()
        self.seen.append((request.method, request.raw_path, dict(request.headers), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer(request)
        if isinstance(answer, dict):
            return web.json_response(answer)
        if answer == "cut":
            request.transport.abort()
            return web.Response()
        return answer

    @property
    def keys(self):
        return [headers.get("Idempotency-Key") for _, _, headers, _ in self.seen]


@asynccontextmanager
async def serving(*answers):
    server = Server(*answers)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def client(*servers, **more):
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return AsyncAdminClient(urls, **({"namespace": "a", "environment": "b"} | more))


async def test_a_write_whose_answer_is_lost_is_sent_again_with_its_key():
    async with serving("cut", "cut", WRITTEN) as server, client(server) as admin:
        assert (await admin.change({"k": 1})).release == 2
    assert len(server.seen) == 3
    assert len(set(server.keys)) == 1
    assert server.keys[0]
    assert len({(path, body) for _, path, _, body in server.seen}) == 1


async def test_each_call_has_a_key_of_its_own_unless_one_is_given():
    async with serving(WRITTEN) as server, client(server) as admin:
        await admin.delete("k")
        await admin.delete("k")
        await admin.delete("k", idempotency_key="mine")
        await admin.delete("k", dry_run=True)
    first, second, third, planned = server.keys
    assert first != second
    assert (third, planned) == ("mine", None)


async def test_an_answer_that_never_comes_is_an_unknown_outcome():
    async with serving("cut") as server, client(server) as admin:
        with pytest.raises(AdminError, match="not known whether") as error:
            await admin.change(delete="k")
    assert (error.value.code, error.value.status, len(server.seen)) == ("outcome_unknown", None, 3)


async def test_what_has_no_key_is_not_sent_again():
    async with serving("cut") as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.repair()
    assert (error.value.code, len(server.seen)) == ("outcome_unknown", 1)


async def test_a_plan_that_is_lost_is_no_unknown_outcome():
    async with serving("cut") as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.delete("k", dry_run=True)
    assert error.value.code == "unreachable"


async def test_the_service_says_that_it_does_not_know():
    unknown = problem(504, "outcome_unknown")
    async with serving(unknown, WRITTEN) as server, client(server) as admin:
        assert (await admin.delete("k")).revision == 9
    assert len(set(server.keys)) == 1
    async with serving(unknown) as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.delete("k")
    assert (error.value.code, error.value.status, len(server.seen)) == ("outcome_unknown", 504, 3)


async def test_not_now_is_asked_again_as_long_as_it_is_short():
    async with serving(problem(503, "starting"), WRITTEN) as server, client(server) as admin:
        assert (await admin.delete("k")).release == 2
        assert len(server.seen) == 2
    async with serving(problem(503, "store_full", "30")) as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.delete("k")
    assert (error.value.code, error.value.status, len(server.seen)) == ("store_full", 503, 1)
    assert error.value.reasons == (f"{server.url}: it is store_full",)


async def test_a_refusal_is_final_and_tells_its_fields():
    problems = [{"key": "a", "detail": "is bad", "line": 3, "column": 1}]
    bad = problem(400, "invalid_body", problems=problems)
    async with serving(bad) as server, serving(WRITTEN) as other, client(server, other) as admin:
        with pytest.raises(AdminError, match="it is invalid_body") as error:
            await admin.deploy("a: [")
    assert (error.value.code, error.value.status, error.value.problems) == ("invalid_body", 400, problems)
    assert (len(server.seen), len(other.seen)) == (1, 0)


async def test_addresses_that_fail_are_passed_over():
    async with serving(problem(503, "draining")) as one, serving(SELF) as two:
        async with client("http://127.0.0.1:1", one, two) as admin:
            assert (await admin.service()).namespace == "a"
        assert (len(one.seen), len(two.seen)) == (1, 1)
        async with client("http://127.0.0.1:1", one) as admin:
            with pytest.raises(AdminError) as error:
                await admin.service()
    assert (error.value.code, error.value.status) == ("draining", 503)
    assert [line.split(": ", 1)[1] for line in error.value.reasons] == [
        "cannot connect: connection refused",
        "it is draining",
    ]


async def test_a_write_goes_to_the_next_address_with_the_same_key():
    async with serving("cut") as one, serving(WRITTEN) as two, client(one, two) as admin:
        await admin.change(delete="k")
    assert one.keys == two.keys
    async with serving("cut") as one, serving(WRITTEN) as two, client(one, two) as admin:
        with pytest.raises(AdminError):
            await admin.repair()
    assert len(two.seen) == 0


async def test_silence_ends_in_time():
    async def silent(request):
        await asyncio.sleep(20)

    async with serving(silent) as server, client(server, timeout_s=0.2) as admin:
        with pytest.raises(AdminError, match="no answer in time") as error:
            await admin.get("k")
        assert error.value.code == "unreachable"
        with pytest.raises(AdminError) as error:
            await admin.repair()
        assert error.value.code == "outcome_unknown"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (web.Response(text="<h1>hello</h1>", content_type="text/html"), "not configsvc"),
        (web.Response(status=302, headers={"Location": "/v1/self"}), "a redirect"),
        (web.Response(status=404, text="nothing"), "not as configsvc does"),
        (web.json_response([1]), "not as configsvc's"),
        (web.Response(body=b"\xff", content_type="application/json"), "not as configsvc's"),
        (web.Response(body=b"[" * 200_000, content_type="application/json"), "not as configsvc's"),
        (web.Response(status=400, body=b"[" * 200_000, content_type="application/json"), "not as configsvc does"),
        (web.json_response({"detail": "x"}, status=400), "not as configsvc does"),
    ],
)
async def test_what_answers_is_something_else(answer, says):
    async with serving(answer) as server, client(server) as admin:
        with pytest.raises(AdminError, match=says) as error:
            await admin.service()
    assert (error.value.code, error.value.status, len(server.seen)) == ("unreachable", None, 1)


async def test_the_token_goes_to_whom_somebody_named(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("s3cret\n")
    async with serving(WRITTEN) as server, client(server, token_file=tmp_path / "token") as admin:
        await admin.delete("k")
    assert [headers["Authorization"] for _, _, headers, _ in server.seen] == ["Bearer s3cret"]
    for said, tokens in ((SELF, [None, "Bearer s3cret"]), ({"service": "other"}, [None])):
        async with serving(said) as server:
            monkeypatch.setattr("configsvc_client.options.DEFAULT_URLS", (server.url,))
            async with AsyncAdminClient(namespace="a", environment="b", token_file=tmp_path / "token") as admin:
                if len(tokens) == 1:
                    with pytest.raises(AdminError, match="not configsvc"):
                        await admin.service()
                else:
                    await admin.service()
        assert [headers.get("Authorization") for _, _, headers, _ in server.seen] == tokens


async def test_a_token_file_that_holds_none(tmp_path):
    async with serving(WRITTEN) as server, client(server, token_file=tmp_path / "none") as admin:
        with pytest.raises(AdminError, match="token file") as error:
            await admin.delete("k")
    assert (error.value.code, server.seen) == ("token", [])


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving(SELF) as server, client(server) as admin:
        await admin.service()


async def test_the_scope_is_the_services_where_nobody_names_one():
    async with serving(SELF, {**SELF, "key": "k", "value": 1, "source": "stored", "revision": 3}) as server:
        async with AsyncAdminClient(server.url) as admin:
            assert (await admin.get("k")).value == 1
            other = admin.at(environment="c")
            await other.get("k/ü")
            assert await admin.scope() == ("a", "b")
        assert [path for _, path, _, _ in server.seen] == ["/v1/self", "/v1/config/a/b/k", "/v1/config/a/c/k%2F%C3%BC"]
    async with serving({"service": "configsvc"}) as server, AsyncAdminClient(server.url) as admin:
        with pytest.raises(AdminError, match="no namespace was given") as error:
            await admin.get("k")
    assert error.value.code == "unknown_scope"


async def test_what_is_sent():
    async with serving(PLANNED) as server, client(server) as admin:
        await admin.deploy({"a": {"b": 1.5, "ü": None}}, version="v 1", dry_run=True, reason="a&b", base_release=0)
        await admin.deploy(" {}")
        await admin.deploy("a: 1", overrides="keep", digest="1-ab")
        await admin.deploy(b"{a: 1}", media="application/yaml")
        await admin.change({"k": [1], "l": None}, ["m"], emergency=True, ttl_s=90)
        await admin.change(delete="m")
        found = await admin.emergency("k.k", "x", reason="r", ttl_s=1.5)
        await admin.rollback(17, overrides="discard")
        await admin.rollback("v1+2")
        await admin.promote("staging")
    assert [(method, path.removeprefix("/v1/"), body) for method, path, _, body in server.seen] == [
        (
            "POST",
            "deploy/a/b?version=v%201&overrides=refuse&reason=a%26b&base_release=0&dry_run=true",
            '{"a":{"b":1.5,"ü":null}}'.encode(),
        ),
        ("POST", "deploy/a/b?overrides=refuse", b" {}"),
        ("POST", "deploy/a/b?overrides=keep&digest=1-ab", b"a: 1"),
        ("POST", "deploy/a/b?overrides=refuse", b"{a: 1}"),
        ("PATCH", "config/a/b?emergency=true&ttl_s=90", b'{"set":{"k":[1],"l":null},"delete":["m"]}'),
        ("PATCH", "config/a/b", b'{"set":{},"delete":["m"]}'),
        ("PUT", "emergency/a/b/k.k?ttl_s=1.5&reason=r", b'"x"'),
        ("POST", "rollback/a/b/%4017?overrides=discard", b""),
        ("POST", "rollback/a/b/v1%2B2?overrides=refuse", b""),
        ("POST", "promote/a/b?from=staging&overrides=refuse", b""),
    ]
    types = [headers.get("Content-Type") for _, _, headers, _ in server.seen]
    assert types[:4] == ["application/json", "application/json", "application/yaml", "application/yaml"]
    assert found.is_planned
    assert (found.digest, found.changes[0].old, found.changes[0].new) == ("1-ab", MISSING, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800", object()])
async def test_what_json_cannot_say_is_not_sent(value):
    async with serving(WRITTEN) as server, client(server) as admin:
        for call in (
            lambda: admin.change({"a": 1, "k": value}),
            lambda: admin.deploy({"a": 1, "k": value}),
            lambda: admin.emergency("k", value),
        ):
            with pytest.raises(InvalidOption, match="the value of 'k' cannot be sent as JSON"):
                await call()
    assert server.seen == []


async def test_arguments_that_cannot_be_right():
    async with serving(WRITTEN) as server, client(server) as admin:
        with pytest.raises(InvalidOption, match="a mapping or the text of a file, not int"):
            await admin.deploy(5)
        with pytest.raises(TypeError, match="unexpected argument: dryrun"):
            await admin.delete("k", dryrun=True)
        with pytest.raises(InvalidOption, match="no text"):
            await admin.delete("\udcff")
        for wrong in ("a/b", 5):
            with pytest.raises(InvalidOption, match="namespace"):
                admin.at(wrong)
        with pytest.raises(InvalidOption, match="set must be a mapping"):
            await admin.change([("k", 1)])
        for wrong in (5, None):
            with pytest.raises(InvalidOption, match="a key must be text, not"):
                await admin.change(delete=wrong)
    assert server.seen == []
    for wrong in (0, -1, "5", True, float("nan"), 10**9):
        with pytest.raises(InvalidOption, match="timeout_s"):
            AsyncAdminClient("http://a", timeout_s=wrong)


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",), b"a"])
async def test_keys_are_text(key):
    """JSON and addresses would make texts of some, which nobody wrote."""
    async with serving(WRITTEN) as server, client(server) as admin:
        for call in (
            lambda: admin.deploy({key: 2}),
            lambda: admin.deploy({"a": {key: 2}}),
            lambda: admin.change({key: 2}),
            lambda: admin.emergency("a", [{"b": {key: 2}}]),
            lambda: admin.emergency(key, 1),
            lambda: admin.get(key),
            lambda: admin.delete(key),
            lambda: anext(admin.history(key)),
            lambda: admin.change(delete=[key]),
            lambda: admin.set_own_keys([key]),
        ):
            with pytest.raises(InvalidOption, match=r"must be text|keys must be str"):
                await call()
    assert server.seen == []


async def test_keys_are_looked_at_before_the_service_is_asked_for_the_scope():
    async with serving(SELF) as server, AsyncAdminClient(server.url) as admin:
        with pytest.raises(InvalidOption, match="a key must be text, not 5"):
            await admin.get(5)
    assert server.seen == []


@pytest.mark.parametrize("release", [None, 1.5, True, b"v1"])
async def test_a_release_is_a_number_or_a_label(release):
    async with serving(WRITTEN) as server, client(server) as admin:
        for call in (
            lambda: admin.as_of(release),
            lambda: admin.release(release),
            lambda: admin.diff(release),
            lambda: admin.rollback(release),
        ):
            with pytest.raises(InvalidOption, match="a release must be a number or a label, not "):
                await call()
    assert server.seen == []


@pytest.mark.parametrize("key", ["", "a\nb", "a b", "é", "a" * 256, 5, b"a"])
async def test_an_idempotency_key_that_is_none(key):
    async with serving(WRITTEN) as server, client(server) as admin:
        with pytest.raises(InvalidOption, match="idempotency_key must be 1 to 255 visible ASCII characters, not "):
            await admin.delete("k", idempotency_key=key)
    assert server.seen == []


async def test_pages_follow_each_other():
    def page(*numbers, following):
        rows = [
            {"release": n, "version": None, "kind": "change", "at": "", "by": "", "reason": None, "changed": 1}
            for n in numbers
        ]
        return {"releases": rows, "next": following}

    async with serving(page(5, 4, following=4), page(3, following=None)) as server, client(server) as admin:
        assert [one.release async for one in admin.versions()] == [5, 4, 3]
    assert [path for _, path, _, _ in server.seen] == [
        "/v1/versions/a/b?limit=50",
        "/v1/versions/a/b?limit=500&after=4",
    ]


async def test_a_backup_that_breaks_off_leaves_nothing(tmp_path):
    async def broken(request):
        answer = web.StreamResponse(headers={"Content-Type": "application/gzip", "Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"\x1f\x8b")
        request.transport.abort()
        return answer

    async with serving(broken) as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.backup(tmp_path / "b.gz")
    assert error.value.code == "unreachable"
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_was_made_for_a_backup_goes_with_it(tmp_path):
    async def damaged(request):
        return web.Response(body=b"\x1f\x8bnothing", content_type="application/gzip")

    async with serving(damaged) as server, client(server) as admin:
        for there, left in ((False, []), (True, [tmp_path / "b"])):
            if there:
                (tmp_path / "b").mkdir()
            with pytest.raises(AdminError, match="no backup"):
                await admin.backup(f"{tmp_path}/b/")
            assert list(tmp_path.rglob("*")) == left


async def test_a_disk_that_takes_no_backup_is_no_fault_of_the_service(tmp_path):
    packed = web.Response(body=b"\x1f\x8b", content_type="application/gzip")
    async with serving(packed) as server, client(server) as admin:
        with pytest.raises(FileNotFoundError):
            await admin.backup(tmp_path / "no" / "folder")
    assert len(server.seen) == 1


async def test_a_damaged_backup_is_not_sent(tmp_path):
    (tmp_path / "b.gz").write_bytes(b"\x1f\x8bnothing")
    async with serving(WRITTEN) as server, client(server) as admin:
        with pytest.raises(AdminError) as error:
            await admin.restore(tmp_path / "b.gz")
        with pytest.raises(FileNotFoundError):
            await admin.restore(tmp_path / "none")
    assert (error.value.code, server.seen) == ("invalid_backup", [])


async def test_the_one_that_blocks_does_the_same():
    async with serving(SELF, "cut", WRITTEN, json.loads(json.dumps(WRITTEN))) as server:
        admin = AdminClient(server.url)

        def use():
            with admin:
                return admin.change({"k": 1}), admin.at(environment="c").delete("k")

        assert [one.release for one in await asyncio.to_thread(use)] == [2, 2]
        # Learned once, kept for the next call.
        assert [path for _, path, _, _ in server.seen] == ["/v1/self", *["/v1/config/a/b"] * 2, "/v1/config/a/c/k"]


def test_the_one_that_blocks_works_within_a_loop():
    async def main():
        with pytest.raises(AdminError, match="cannot connect"):
            AdminClient("http://127.0.0.1:1").service()

    asyncio.run(main())


async def test_one_pattern_may_stand_alone():
    owned = {"namespace": "a", "environment": "b", "patterns": ["database.host"]}
    async with serving(owned) as server, client(server) as admin:
        assert await admin.set_own_keys("database.host") == ["database.host"]
        await admin.set_own_keys(iter(["a", "*.url"]))
    assert [body for _, _, _, body in server.seen] == [b'["database.host"]', b'["a","*.url"]']


async def test_a_release_that_is_still_being_applied_is_not_the_scopes():
    """It is listed from the moment that its window opens; the head's release is what `drift` answers."""
    drift = {"namespace": "a", "environment": "b", "revision": 7, "hand": [], "overrides": [], "frozen": None}
    row = {"release": 2, "version": None, "kind": "deploy", "at": "", "by": "ann", "reason": None, "changed": 1}
    none = {"releases": [], "next": None}
    for release, answer, path in ((2, {"releases": [row], "next": 2}, "after=3"), (None, none, "after=1")):
        told = {**drift, "release": release, "version": None}
        async with serving(SELF, told, answer, problem(404, "scope_not_found")) as server, client(server) as admin:
            found = await admin.status()
        assert [one[1] for one in server.seen][2] == f"/v1/versions/a/b?limit=1&{path}"
        assert (found.newest.release if found.newest else None) == release


async def test_what_is_said_of_a_lost_answer_is_how_it_was_lost():
    """That the tries after it changed nothing does not tell what became of the first."""
    async with serving("cut", problem(503, "store_unavailable")) as server, client(server) as admin:
        with pytest.raises(AdminError, match="it is not known") as error:
            await admin.change({"k": 1})
    assert (error.value.code, len(server.seen)) == ("outcome_unknown", 3)
    assert "store_unavailable" not in str(error.value)
