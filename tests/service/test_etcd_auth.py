"""Users and tokens on every version of etcd, and the odd cases against a scripted gateway."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from configsvc.etcd.auth import Auth
from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalCluster, LocalEtcd
from configsvc.etcd.ops import Invalid, Put, Range, Refused, Txn, Unreachable
from tests.support import etcd as support
from tests.support.etcd import call, enable_auth, get, put, root_token
from tests.support.scripted import CREATED_LINE, HEADER, Answer, ScriptedGateway, answer, lines

PREFIX = b"/app/"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def user(password_file: Path) -> dict[str, Any]:
    return {"user": "app", "password_file": password_file}


@pytest.fixture
async def guarded(etcd_version: str) -> AsyncIterator[LocalEtcd]:
    """An etcd with users, whose tokens end after 2 s without use."""
    with LocalEtcd(options=support.options(etcd_version, extra=("--auth-token-ttl=2",))) as etcd:
        await enable_auth(etcd, user="app", password="s3cret", prefix=PREFIX)
        yield etcd


async def test_a_user_reads_writes_and_watches_its_prefix(
    guarded: LocalEtcd, make_gateway: Any, user: dict[str, Any]
) -> None:
    gateway: Gateway = await make_gateway(guarded.url, config=user)
    revision = await put(gateway, PREFIX + b"a", b"1")
    assert [kv.value for kv in (await gateway.list(PREFIX)).kvs] == [b"1"]
    assert (await gateway.status()).version == await gateway.version()
    async with gateway.watch(PREFIX, revision, member=gateway.members[0]) as watch:
        assert [(await anext(watch)).kind, (await anext(watch)).kind] == ["created", "events"]
    for refused in (get(gateway, b"/other"), put(gateway, b"/other"), gateway.list(b"/")):
        with pytest.raises(Refused, match="permission denied"):
            await refused
    with pytest.raises(Refused):
        async with gateway.watch(b"/other", 1, member=gateway.members[0]):
            pass


async def test_no_user_or_a_wrong_one(guarded: LocalEtcd, make_gateway: Any, user: dict[str, Any]) -> None:
    nobody: Gateway = await make_gateway(guarded.url)
    assert await nobody.version()
    with pytest.raises(Refused, match="user name is empty"):
        await get(nobody, PREFIX)
    with pytest.raises(Refused):
        async with nobody.watch(PREFIX, 1, member=nobody.members[0]):
            pass
    user["password_file"].write_text("wrong")
    wrong: Gateway = await make_gateway(guarded.url, config=user)
    with pytest.raises(Refused, match=r"user 'app': .*authentication failed") as raised:
        await get(wrong, PREFIX)
    assert "wrong" not in str(raised.value)
    assert repr(wrong).endswith("(closed))")


async def test_tokens_that_end_are_renewed(guarded: LocalEtcd, make_gateway: Any, user: dict[str, Any]) -> None:
    """For a read, a write and a watch, each with a token that has ended."""
    gateway: Gateway = await make_gateway(guarded.url, config=user)
    revision = await put(gateway, PREFIX, b"0")
    for step in ("range", "txn", "watch"):
        await token_has_ended(guarded, gateway)
        if step == "range":
            assert (await get(gateway, PREFIX)).kvs[0].value == b"0"
        elif step == "txn":
            await put(gateway, PREFIX, b"0")
        else:
            async with gateway.watch(PREFIX, revision, member=gateway.members[0]) as watch:
                assert (await anext(watch)).kind == "created"


async def token_has_ended(etcd: LocalEtcd, gateway: Gateway) -> None:
    token = await gateway._auth.token(etcd.url)
    body = {"key": support.encoded(PREFIX)}
    async with asyncio.timeout(30):
        while True:
            # Asking renews it, so the pause has to be longer than its life.
            await asyncio.sleep(2.6)
            if "error" in (answer := await ask(etcd, body, token)) or "code" in answer:
                return


async def ask(etcd: LocalEtcd, body: dict[str, Any], token: str) -> dict[str, Any]:
    answer: dict[str, Any] = await asyncio.to_thread(
        etcd.members[0].ask, "/v3/kv/range", body, {"Authorization": token}
    )
    return answer


async def test_a_new_password_is_read_from_the_file(
    guarded: LocalEtcd, make_gateway: Any, user: dict[str, Any]
) -> None:
    gateway: Gateway = await make_gateway(guarded.url, config=user)
    await put(gateway, PREFIX, b"1")
    root = await root_token(guarded)
    await call(guarded, "/v3/auth/user/changepw", {"name": "app", "password": "n3w"}, token=root)
    with pytest.raises(Refused):
        await get(await make_gateway(guarded.url, config=user), PREFIX)
    user["password_file"].write_text("n3w")
    await token_has_ended(guarded, gateway)
    assert (await get(gateway, PREFIX)).kvs[0].value == b"1"


async def test_users_may_be_turned_on_and_off(etcd_version: str, make_gateway: Any, user: dict[str, Any]) -> None:
    """Before they are on no token is needed; the first refusal fetches one."""
    with LocalEtcd(options=support.options(etcd_version)) as etcd:
        gateway: Gateway = await make_gateway(etcd.url, config=user)
        await put(gateway, PREFIX, b"1")
        await enable_auth(etcd, user="app", password="s3cret", prefix=PREFIX)
        assert (await get(gateway, PREFIX)).kvs[0].value == b"1"
        await call(etcd, "/v3/auth/disable", {}, token=await root_token(etcd))
        assert (await get(gateway, PREFIX)).kvs[0].value == b"1"


async def test_tokens_by_member(make_gateway: Any, user: dict[str, Any]) -> None:
    """A token that one member renewed by use has ended on the others: each has its own, and failover goes on."""
    options = support.options(support.newest(), extra=("--auth-token-ttl=2",))
    with LocalCluster(3, options=options) as cluster:
        first = cluster.members[0]
        await enable_auth(cluster, user="app", password="s3cret", prefix=PREFIX)
        gateway: Gateway = await make_gateway(*cluster.endpoints, config=user)
        await put(gateway, PREFIX, b"1")
        first.kill()
        assert (await get(gateway, PREFIX)).kvs[0].value == b"1"
        for member in gateway.members[1:]:
            assert (await gateway.range(Range(key=PREFIX), member=member)).kvs[0].value == b"1"


@pytest.fixture
def jwt_options(tmp_path: Path) -> str:
    key = rsa.generate_private_key(65537, 2048)
    private, public = tmp_path / "jwt.key", tmp_path / "jwt.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=10m"


async def test_jwts_that_a_change_of_users_made_invalid(
    etcd_version: str, make_gateway: Any, user: dict[str, Any], jwt_options: str
) -> None:
    """3.5.1 answers 500 code 2, later ones 400 code 3; both mean: get a new one."""
    with LocalEtcd(options=support.options(etcd_version, extra=(jwt_options,))) as etcd:
        await enable_auth(etcd, user="app", password="s3cret", prefix=PREFIX)
        gateway: Gateway = await make_gateway(etcd.url, config=user)
        for step in ("range", "txn", "watch"):
            revision = await put(gateway, PREFIX, b"1")
            token = await gateway._auth.token(etcd.url)
            await call(etcd, "/v3/auth/role/add", {"name": step}, token=await root_token(etcd))
            if step == "range":
                assert (await get(gateway, PREFIX)).kvs
            elif step == "txn":
                await put(gateway, PREFIX, b"2")
            else:
                async with gateway.watch(PREFIX, revision, member=gateway.members[0]) as watch:
                    assert (await anext(watch)).kind == "created"
            assert await gateway._auth.token(etcd.url) != token


# ---- scripted --------------------------------------------------------------------------------------------------------

RANGE, TXN, AUTHENTICATE, WATCH = "/v3/kv/range", "/v3/kv/txn", "/v3/auth/authenticate", "/v3/watch"
OK = answer({"header": HEADER})
REFUSALS = [
    answer({"error": "etcdserver: invalid auth token", "code": 16, "message": "etcdserver: invalid auth token"}, 401),
    answer({"code": 3, "message": "etcdserver: user name is empty"}, 400),
    answer({"code": 3, "message": "etcdserver: revision of auth store is old"}, 400),
    answer({"error": "auth: revision in header is old", "code": 2, "message": "auth: revision in header is old"}, 500),
]


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedGateway]:
    async with ScriptedGateway() as server:
        yield server


def tokens(server: ScriptedGateway, path: str) -> list[str | None]:
    return [seen.headers.get("Authorization") for seen in server.seen(path)]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_one_new_token_then_refused(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any], refusal: Any
) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config=user)
    scripted.play(AUTHENTICATE, *(answer({"header": HEADER, "token": f"t{n}"}) for n in range(9)))
    scripted.play(RANGE, refusal, OK)
    await get(gateway, PREFIX)
    assert tokens(scripted, RANGE) == ["t0", "t1"]
    scripted.play(TXN, refusal)
    with pytest.raises(Refused):
        await gateway.txn(Txn(success=(Put(key=b"a", value=b""),)))
    assert tokens(scripted, TXN) == ["t1", "t2"]


@pytest.mark.parametrize("code", ["PermissionDenied", "Unauthenticated", "InvalidArgument"])
async def test_a_watch_refused_by_its_reason(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any], code: str
) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config=user)
    scripted.play(AUTHENTICATE, *(answer({"token": f"t{n}"}) for n in range(9)))
    result = {
        "header": HEADER,
        "created": True,
        "canceled": True,
        "cancel_reason": f"rpc error: code = {code} desc = x",
    }
    scripted.play(WATCH, lines({"result": {"watch_id": "-1", **result}}), lines(CREATED_LINE))
    async with gateway.watch(PREFIX, 1, member=gateway.members[0]) as watch:
        assert (await anext(watch)).kind == "created"
    assert tokens(scripted, WATCH) == ["t0", "t1"]
    scripted.play(WATCH, lines({"result": result}))
    with pytest.raises(Refused, match=code):
        async with gateway.watch(PREFIX, 1, member=gateway.members[0]):
            pass
    assert tokens(scripted, WATCH) == ["t0", "t1", "t1", "t2"]


async def test_a_hundred_requests_fetch_one_token(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any]
) -> None:
    # A hundred connections at once take their time on a busy machine.
    gateway: Gateway = await make_gateway(scripted.url, config=user | {"connect_s": 20.0})
    scripted.play(AUTHENTICATE, answer({"token": "t"}))
    scripted.play(RANGE, OK)
    requests = [asyncio.ensure_future(get(gateway, PREFIX)) for _ in range(100)]
    await asyncio.sleep(0)
    # Whoever gives up does not take the others along.
    requests[0].cancel()
    await asyncio.gather(*requests[1:])
    assert len(scripted.seen(AUTHENTICATE)) == 1
    assert set(tokens(scripted, RANGE)) == {"t"}


async def test_jwts_are_renewed_before_they_end(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any]
) -> None:
    now = [1000.0]

    def token(name: str, exp: float) -> Any:
        payload = base64.urlsafe_b64encode(json.dumps({"exp": exp, "username": name}).encode()).decode().rstrip("=")
        return answer({"token": f"e30.{payload}.{name}"})

    gateway: Gateway = await make_gateway(scripted.url, config=user, clock=lambda: now[0], wall=lambda: now[0])
    scripted.play(AUTHENTICATE, token("first", 1100), token("second", 1200), token("past", 500))
    scripted.play(RANGE, OK)
    for step in (0, 79, 2, 50, 100, 100):
        now[0] += step
        await get(gateway, PREFIX)
    names = [(text or "").rpartition(".")[2] for text in tokens(scripted, RANGE)]
    assert names == ["first", "first", "second", "second", "past", "past"]


async def test_no_answer_to_authenticate_means_nothing_was_sent(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any]
) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config=user)
    scripted.play(AUTHENTICATE, answer({"code": 14, "message": "etcdserver: request timed out"}, 503))
    with pytest.raises(Unreachable, match="authentication: etcdserver: request timed out"):
        await gateway.txn(Txn(success=(Put(key=b"a", value=b""),)))
    assert scripted.seen(TXN) == []
    user["password_file"].unlink()
    with pytest.raises(Refused, match="password file"):
        await get(await make_gateway(scripted.url, config=user), PREFIX)


async def test_an_answer_to_authenticate_that_is_none(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any]
) -> None:
    gateway: Gateway = await make_gateway(scripted.url, config=user)
    scripted.play(AUTHENTICATE, answer({"welcome": "here"}))
    with pytest.raises(Unreachable, match="authentication: "):
        await get(gateway, PREFIX)
    scripted.play(AUTHENTICATE, answer({"code": 3, "message": "etcdserver: user name is odd"}, 400))
    with pytest.raises(Invalid, match="authentication: etcdserver: user name is odd"):
        await get(gateway, PREFIX)
    assert scripted.seen(RANGE) == []


async def test_leaving_ends_an_authentication_under_way(
    scripted: ScriptedGateway, make_gateway: Any, user: dict[str, Any]
) -> None:
    scripted.play(AUTHENTICATE, Answer(hang=True))
    config = GatewayConfig(endpoints=(scripted.url,), **user)
    async with Gateway(config) as gateway:
        asking = asyncio.ensure_future(get(gateway, PREFIX))
        while not scripted.seen(AUTHENTICATE):
            await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking], timeout=10)
    assert asking.done()
    assert not [task for task in asyncio.all_tasks() if "etcd-authenticate" in task.get_name()]


def test_a_user_without_a_password_file_is_refused() -> None:
    with pytest.raises(Refused, match="no password file"):
        Auth("app", None, unused, clock=float, wall=float)._password()


async def unused(url: str, body: bytes) -> bytes:
    raise AssertionError("not asked")
