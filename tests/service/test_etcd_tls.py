"""TLS and client certificates, on every version of etcd."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from configsvc.etcd.gateway import Gateway, GatewayConfig
from configsvc.etcd.local import LocalEtcd, LocalTls
from configsvc.etcd.ops import Refused, Unavailable, Unreachable
from configsvc.etcd.tls import TlsFiles
from tests.support import etcd as support
from tests.support.certificates import Authority
from tests.support.etcd import enable_auth, get, put


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
async def secure(request: Any, etcd_version: str, authority: Authority) -> AsyncIterator[LocalEtcd]:
    server = authority.issue("server")
    tls = LocalTls(cacert=authority.cacert, cert=server.cert, key=server.key, client_auth=request.param)
    with LocalEtcd(options=support.options(etcd_version, tls=tls)) as etcd:
        yield etcd


async def test_tls(secure: LocalEtcd, authority: Authority, make_gateway: Any, tmp_path: Path, prefix: bytes) -> None:
    client = authority.issue("client")
    assert secure.options.tls
    shown = {"cert": client.cert, "key": client.key} if secure.options.tls.client_auth else {}
    gateway: Gateway = await make_gateway(secure.url, config={"cacert": authority.cacert, **shown})
    revision = await put(gateway, prefix, b"1")
    async with gateway.watch(prefix, revision, member=gateway.members[0]) as watch:
        assert [(await anext(watch)).kind, (await anext(watch)).kind] == ["created", "events"]
    stranger = Authority(tmp_path, "stranger")
    for config in ({}, {"cacert": stranger.cacert}):
        with pytest.raises(Unreachable, match="certificate"):
            await get(await make_gateway(secure.url, config=config), prefix)
    plain: Gateway = await make_gateway(secure.url.replace("https", "http"))
    with pytest.raises(Unavailable):
        await get(plain, prefix)
    if shown:
        forged = stranger.issue("forged")
        for config in ({}, {"cert": forged.cert, "key": forged.key}):
            refused: Gateway = await make_gateway(secure.url, config={"cacert": authority.cacert, **config})
            with pytest.raises((Unavailable, Unreachable)):
                await get(refused, prefix)


@pytest.fixture(params=[False, True], ids=["lenient", "strict"])
def python(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts as Python 3.13 makes them by default, and as those before it do, whichever runs."""
    make = ssl.create_default_context

    def context(**options: Any) -> ssl.SSLContext:
        made = make(**options)
        strict = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        made.verify_flags = made.verify_flags | strict if request.param else made.verify_flags & ~strict
        return made

    monkeypatch.setattr(ssl, "create_default_context", context)


@pytest.mark.usefixtures("python")
def test_pythons_version_does_not_decide_what_is_trusted(authority: Authority) -> None:
    flags = TlsFiles(cacert=authority.cacert).context().verify_flags
    assert not flags & ssl.VERIFY_X509_STRICT
    assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN


@pytest.mark.usefixtures("python")
async def test_an_authority_without_key_usage_is_trusted(
    etcd_version: str, authority: Authority, make_gateway: Any, tmp_path: Path, prefix: bytes
) -> None:
    """etcd and etcdctl take the plain certificates that a few lines of openssl make; so does the service."""
    server = authority.issue("server")
    tls = LocalTls(cacert=authority.cacert, cert=server.cert, key=server.key, client_auth=False)
    with LocalEtcd(options=support.options(etcd_version, tls=tls)) as etcd:
        gateway: Gateway = await make_gateway(etcd.url, config={"cacert": authority.cacert})
        assert (await put(gateway, prefix, b"1")) > 0


async def test_a_client_certificate_with_a_name_while_users_are_on(
    etcd_version: str, authority: Authority, make_gateway: Any, tmp_path: Path
) -> None:
    """The gateway takes no such certificate; the error has to say so, for nothing else does."""
    server, client = authority.issue("server"), authority.issue("client", common_name="app")
    tls = LocalTls(cacert=authority.cacert, cert=server.cert, key=server.key, client_auth=True)
    password = tmp_path / "password"
    password.write_text("pw")
    with LocalEtcd(options=support.options(etcd_version, tls=tls)) as etcd:
        await enable_auth(etcd, user="app", password="pw", prefix=b"/app/")
        config = {"cacert": authority.cacert, "cert": client.cert, "key": client.key}
        gateway: Gateway = await make_gateway(etcd.url, config={**config, "user": "app", "password_file": password})
        with pytest.raises(Refused, match="CommonName"):
            await get(gateway, b"/app/")


async def test_files_that_cannot_be_read(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for config in (
        {"cacert": tmp_path / "missing.pem"},
        {"cacert": tmp_path / "junk.pem"},
        {"cacert": authority.cacert, "cert": tmp_path / "junk.pem", "key": tmp_path / "junk.pem"},
    ):
        with pytest.raises(Refused, match=r"(missing|junk)\.pem"):
            async with Gateway(GatewayConfig(endpoints=("https://127.0.0.1:1",), **config)):
                pass
