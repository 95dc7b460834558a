"""Logins with a client certificate, told as EMQX tells it."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest

from tests.support.client_certs import ORGANIZATION, client_certificate
from tests.support.eventually import eventually
from tests.support.jwts import in_seconds
from tests.support.service import Service, account_of
from tests.support.traces import only_trace

GOOD = client_certificate("device-1")
OTHER = client_certificate("device-2")
NOT_YET = client_certificate("device-1", begins=3600)
ENDED = client_certificate("device-1", ends=-1)
SUBJECT = f"subject:CN=device-1,O={ORGANIZATION}"

CASES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "the common name": ("certificate", ("cn:device-1",), GOOD.fields),
    "the subject": ("certificate", (SUBJECT,), GOOD.fields),
    "the fingerprint": ("certificate", (f"sha256:{GOOD.fingerprint}",), GOOD.fields),
    "one of several": ("certificate", ("cn:x", f"sha256:{GOOD.fingerprint}"), GOOD.fields),
    "no PEM": ("certificate", ("cn:device-1",), GOOD.fields | {"cert_pem": ""}),
    "only the PEM": ("certificate", (f"sha256:{GOOD.fingerprint}",), {"cert_pem": GOOD.bare}),
    "another name": ("wrong_certificate", ("cn:device-1",), OTHER.fields),
    "another subject": ("wrong_certificate", (SUBJECT,), OTHER.fields),
    "the name, but another fingerprint": ("wrong_certificate", (f"sha256:{GOOD.fingerprint}",), NOT_YET.fields),
    "a fingerprint, but no PEM": ("wrong_certificate", (f"sha256:{GOOD.fingerprint}",), GOOD.fields | {"cert_pem": ""}),
    "not yet": ("certificate_not_yet", ("cn:device-1",), NOT_YET.fields),
    "ended": ("certificate_expired", ("cn:device-1",), ENDED.fields),
    "no base64": ("malformed", ("cn:device-1",), GOOD.fields | {"cert_pem": "-----BEGIN"}),
    "no certificate": ("malformed", ("cn:device-1",), GOOD.fields | {"cert_pem": base64.b64encode(b"x" * 99).decode()}),
    "no pins": ("no_credentials", (), GOOD.fields),
    "no certificate at all": ("no_credentials", ("cn:device-1",), {}),
    "an empty one": ("no_credentials", ("cn:",), {"cert_common_name": "", "cert_subject": "", "cert_pem": ""}),
}


async def login(service: Service, fields: dict[str, str], **more: str) -> dict[str, Any]:
    return await service.ask("auth", {"username": "alice", "password": "", "clientid": "c1"} | fields | more)


@pytest.mark.parametrize("name", CASES)
async def test_logins(hooks: Service, logged: io.StringIO, name: str) -> None:
    """The verdict is right, and the metric, the log line and the audit record give the same reason."""
    expected, pins, fields = CASES[name]
    await hooks.store.accounts.add([account_of("alice", "secret", certificates=pins)])
    answer = await login(hooks, fields)
    assert (await only_trace(hooks, logged, "auth")).reason == expected
    assert answer["result"] == ("allow" if expected == "certificate" else "deny")
    if expected == "certificate":
        # The session ends with the certificate, where that is known.
        assert answer.get("expire_at") == (GOOD.ends if fields.get("cert_pem") else None)


async def test_an_account_that_may_not_be_used(hooks: Service, logged: io.StringIO) -> None:
    """A right certificate of a disabled account opens nothing."""
    await hooks.store.accounts.add([account_of("alice", "x", certificates=("cn:device-1",), disabled=True)])
    assert await login(hooks, GOOD.fields) == {"result": "deny"}
    assert (await only_trace(hooks, logged, "auth")).reason == "account_disabled"


async def test_the_earlier_end_counts(hooks: Service) -> None:
    """An account that ends before its certificate ends the session."""
    ends = in_seconds(600)
    await hooks.store.accounts.add([account_of("alice", "x", certificates=("cn:device-1",), expires_at=ends)])
    assert await login(hooks, GOOD.fields) == {"result": "allow", "expire_at": ends}


async def test_beside_a_password(hooks: Service) -> None:
    """Without a certificate the password of the same account is good; a wrong certificate is refused, whatever the password."""
    await hooks.store.accounts.add(
        [account_of("alice", "secret", certificates=("cn:device-1",)), account_of("bob", "secret")]
    )
    assert (await login(hooks, {}, password="secret"))["result"] == "allow"
    assert (await login(hooks, GOOD.fields, password="wrong"))["result"] == "allow"
    assert (await login(hooks, OTHER.fields, password="secret"))["result"] == "deny"
    # Whoever is known by no certificate may show one all the same.
    assert (await login(hooks, OTHER.fields, username="bob", password="secret"))["result"] == "allow"
    assert (await login(hooks, GOOD.fields, username="nobody", password="secret"))["result"] == "deny"
    assert (await login(hooks, GOOD.fields, username=""))["result"] == "deny"


async def test_a_pin_that_is_replaced(hooks: Service) -> None:
    """The new certificate is good soon after another process said so, the old one is not."""
    await hooks.store.accounts.add([account_of("alice", "x", certificates=("cn:device-1",))])
    assert (await login(hooks, GOOD.fields))["result"] == "allow"
    assert await hooks.may("alice", "subscribe", "alice/#")
    await hooks.store.accounts.adjust("alice", certificates=["cn:device-2"])

    async def replaced() -> bool:
        return bool((await login(hooks, OTHER.fields))["result"] == "allow")

    await eventually(replaced, what="the new certificate is known")
    assert (await login(hooks, GOOD.fields))["result"] == "deny"
