"""The embedded broker asks what EMQX asks, and does what the answers say."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from tests.broker.embedded_client import DISCONNECT_PACKET, Message, Will, client, connect_packet, publish_packet
from tests.broker.embedded_hooks import ALLOW, DENY, Asked, Hooks, Reply, allowed, hooks, recorded, running_hooks
from tests.support.waiting import wait_until

__all__ = ["hooks"]


@pytest.fixture
async def port(hooks: Hooks) -> AsyncIterator[int]:
    """Run an embedded broker that asks `hooks`, and return its port."""
    config = EmbeddedBrokerConfig(port=0, hooks_url=hooks.url, hook_key="hook-key")
    async with EmbeddedBroker(config) as broker:
        yield broker.port


def names_and_values(asked: Asked) -> list[tuple[str, str]]:
    """Return the headers; the host is the one thing that depends on where the hooks are."""
    return [(name, "" if name == "host" else value) for name, value in asked.headers]


async def expect_asked(hooks: Hooks, label: str) -> None:
    """Compare what was asked with what EMQX asked, to the byte."""
    expected = recorded(label)
    await wait_until(lambda: len(hooks.asked) >= len(expected), what="questions")
    assert [(asked.method, asked.path, asked.body) for asked in hooks.asked] == [
        (entry.method, entry.path, entry.body) for entry in expected
    ]
    assert [names_and_values(asked) for asked in hooks.asked] == [names_and_values(entry) for entry in expected]
    assert dict(hooks.asked[0].headers)["host"] == f"127.0.0.1:{hooks.port}"


@pytest.mark.parametrize(
    ("label", "who", "publish"),
    [
        ("connect 3.1.1, QoS 0 publish", ("dev-1", "alice", "secret"), ("a/b", 0, False)),
        ("connect 5, QoS 1 retained publish", ("dev-2", "alice", "secret"), ("a/b", 1, True)),
        ("no user name, no password", ("dev-3", None, None), ("a/b", 0, False)),
        ("UTF-8 and JSON-special characters", ('dév"ice\\4', "ålice & co=1", 'p"w\\+ %😀'), ('ä/"q"/b c', 2, False)),
    ],
)
async def test_connect_and_publish_are_asked_in_the_words_of_emqx(
    hooks: Hooks, port: int, label: str, who: tuple[str, ...], publish: tuple[str, int, bool]
) -> None:
    """CONNECT and PUBLISH of QoS 0, 1 and 2 are asked as recorded from EMQX 5.8.9, headers and bodies to the byte."""
    topic, qos, retain = publish
    async with client(port) as device:
        assert await device.connect(*who) == 0
        await device.publish(topic, qos=qos, retain=retain)
        await expect_asked(hooks, label)


async def test_every_filter_of_a_subscribe_is_asked_alone_and_in_order(hooks: Hooks, port: int) -> None:
    """Wildcards come raw, `$share/g/` and `$exclusive/` are stripped, one question follows another, as recorded."""
    async with client(port) as device:
        assert await device.connect("dev-5") == 0
        codes = await device.subscribe(("a/+/c", 1), ("x/#", 1), ("$share/g/s/+", 1), ("$exclusive/e/1", 1))
    await expect_asked(hooks, "subscribe wildcards, shared, exclusive")
    # amqtt has no shared and no exclusive subscriptions: granting them would promise what never arrives.
    assert codes == [1, 1, 0x80, 0x80]


async def test_a_will_is_asked_about_when_it_fires(hooks: Hooks, port: int) -> None:
    """A will is a publish, checked when the client is gone, as recorded."""
    async with client(port) as device:
        assert await device.connect("dev-7", will=Will("will/dev-7", qos=1)) == 0
        assert await device.subscribe(("w/+", 0)) == [0]
        assert len(hooks.asked) == 2
    await expect_asked(hooks, "will fires")


async def test_an_empty_client_id_is_assigned_before_the_hooks_are_asked(hooks: Hooks, port: int) -> None:
    """The hooks see the assigned client id: 16 letters and digits, the same in every question, as with EMQX."""
    async with client(port) as device:
        assert await device.connect("") == 0
        await device.publish("a/b")
        await wait_until(lambda: len(hooks.asked) == 2)
    assigned = {asked.fields["clientid"] for asked in hooks.asked}
    (client_id,) = assigned
    assert len(client_id) == 16
    assert client_id.isalnum()
    assert client_id.isascii()
    expected = [entry.body.replace(b"moMKLMWR7A0Ncuxu", client_id.encode()) for entry in recorded("empty client id")]
    assert [asked.body for asked in hooks.asked] == expected


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=204),
        ALLOW,
        Reply(content_type="application/json; charset=utf-8"),
        allowed(client_attrs={"role": "x"}, is_superuser=False),
        allowed(acl=[{"permission": "deny", "action": "all", "topics": ["#"]}]),
    ],
    ids=["204", "allow", "charset", "more fields", "a list, which is not read: it asks"],
)
async def test_an_allow_lets_in(hooks: Hooks, port: int, reply: Reply) -> None:
    """204 and 200 with JSON `allow` are an allow, for the login and for a publish."""
    hooks.answer = lambda _: reply
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("a", 1)) == [1]


@pytest.mark.parametrize(
    "reply",
    [
        DENY,
        Reply(b'{"result":"ignore"}'),
        Reply(b'{"result":"Allow"}'),
        Reply(b'{"result":true}'),
        Reply(b"{}"),
        Reply(b'"allow"'),
        Reply(b'{"result":"allow"'),
        Reply(b""),
        Reply(content_type="text/plain"),
        Reply(content_type=None),
        Reply(status=201),
        Reply(status=302),
        Reply(status=401),
        Reply(status=500),
    ],
    ids=lambda reply: f"{reply.status} {reply.content_type} {reply.body.decode()}",
)
async def test_anything_else_refuses(hooks: Hooks, port: int, reply: Reply) -> None:
    """What is not an allow refuses a login with CONNACK 5, and a subscription with 0x80: nothing falls through."""
    hooks.answer = lambda _: reply
    async with client(port) as device:
        assert await device.connect("dev", "alice", "wrong") == 5
        assert await device.closed() == b""
    hooks.answer = lambda asked: ALLOW if asked.is_login else reply
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("a", 0)) == [0x80]


async def test_a_redirect_is_not_followed(hooks: Hooks, port: int) -> None:
    """A redirect is no verdict, and nothing is sent to where it points."""
    hooks.answer = lambda asked: Reply(status=307, location=f"{hooks.url}/elsewhere") if asked.is_login else ALLOW
    async with client(port) as device:
        assert await device.connect("dev") == 5
    assert [asked.path for asked in hooks.asked] == ["/mqtt/auth"]


@pytest.mark.parametrize(
    "expire_at", [1.5e9, "1999999999", None, True, 1_000_000_000, int(time.time() * 1000)], ids=repr
)
async def test_an_expiry_that_cannot_be_meant_refuses(hooks: Hooks, port: int, expire_at: object) -> None:
    """A float, a string, null, the past and milliseconds refuse the login with bad credentials, as EMQX does."""
    hooks.answer = lambda _: allowed(expire_at=expire_at)
    async with client(port) as device:
        assert await device.connect("dev") == 4


async def test_a_connection_ends_when_its_credential_expires(hooks: Hooks, port: int) -> None:
    """At `expire_at` the broker closes the connection, and not before."""
    expires_at = int(time.time()) + 2
    hooks.answer = lambda asked: allowed(expire_at=expires_at) if asked.is_login else ALLOW
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("a", 0)) == [0]
        await device.closed()
        assert time.time() >= expires_at


@pytest.mark.parametrize("value", [True, "true", 1, "1"], ids=repr)
async def test_a_superuser_is_not_asked_about(hooks: Hooks, port: int, value: object) -> None:
    """`is_superuser` skips the questions about topics, but not the broker's own limits."""
    hooks.answer = lambda asked: allowed(is_superuser=value) if asked.is_login else DENY
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("#", 1)) == [1]
        await device.publish("a/b", b"1", qos=1)
        assert (await device.message()).payload == b"1"
    assert hooks.questions == []


@pytest.mark.parametrize("value", [False, "false", 0, None, 2, [1]], ids=repr)
async def test_other_values_make_no_superuser(hooks: Hooks, port: int, value: object) -> None:
    """Only the four values that EMQX knows make a superuser."""
    hooks.answer = lambda asked: allowed(is_superuser=value) if asked.is_login else DENY
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("#", 1)) == [0x80]


async def test_filters_are_granted_one_by_one(hooks: Hooks, port: int) -> None:
    """Each filter of a SUBSCRIBE has its own verdict, and its own QoS in the question."""
    hooks.deny("b/#")
    async with client(port) as device:
        assert await device.connect("dev") == 0
        assert await device.subscribe(("a", 2), ("b/#", 1), ("c", 0)) == [2, 0x80, 0]
    assert [asked.fields["qos"] for asked in hooks.asked if not asked.is_login] == ["2", "1", "0"]


async def test_filters_that_are_no_filters_are_refused_unasked(hooks: Hooks, port: int) -> None:
    """A misplaced wildcard and a share without a group or a filter never reach the hooks."""
    async with client(port) as device:
        assert await device.connect("dev") == 0
        codes = await device.subscribe(("a/#/b", 0), ("a+", 0), ("$share/", 0), ("$share/g", 0), ("$share/+/a", 0))
    assert codes == [0x80] * 5
    assert hooks.questions == []


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_allowed_publish_arrives_and_a_denied_one_leaves_no_trace(hooks: Hooks, port: int, qos: int) -> None:
    """A denied publish is acknowledged, but neither delivered, nor retained, nor kept for a client that is away."""
    hooks.deny("no")
    async with client(port) as absent:
        assert await absent.connect("absent", clean=False) == 0
        assert await absent.subscribe(("#", 1)) == [1]
        absent.send(DISCONNECT_PACKET)
        await absent.closed()
    async with client(port) as listener, client(port) as device:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("#", 1)) == [1]
        assert await device.connect("device") == 0
        await device.publish("no", b"denied", qos=qos, retain=True)
        await device.publish("yes", b"allowed", qos=qos, retain=True)
        assert (await listener.message()).payload == b"allowed"
    assert hooks.questions[-2:] == [("publish", "no"), ("publish", "yes")]
    async with client(port) as late:
        assert await late.connect("late") == 0
        assert await late.subscribe(("#", 1)) == [1]
        retained = await late.message()
        assert (retained.topic, retained.payload, retained.retain) == ("yes", b"allowed", True)
    async with client(port) as absent:
        assert await absent.connect("absent", clean=False) == 0
        assert (await absent.message()).payload == b"allowed"


async def test_a_denied_retained_publish_does_not_clear_what_is_retained(hooks: Hooks, port: int) -> None:
    """An empty retained message, which would delete, is decided like any other."""
    async with client(port) as device:
        assert await device.connect("device") == 0
        await device.publish("state", b"kept", qos=1, retain=True)
        await wait_until(lambda: hooks.questions == [("publish", "state")])
        hooks.deny("state")
        await device.publish("state", b"", qos=1, retain=True)
        await wait_until(lambda: len(hooks.questions) == 2)
        hooks.answer = lambda _: ALLOW
        assert await device.subscribe(("state", 0)) == [0]
        assert (await device.message()).payload == b"kept"


async def test_a_denied_will_is_not_published(hooks: Hooks, port: int) -> None:
    """The verdict when a will fires counts; an allowed one is delivered and retained."""
    hooks.deny("will/bad")
    async with client(port) as listener:
        assert await listener.connect("listener") == 0
        assert await listener.subscribe(("#", 0)) == [0]
        for name in ("bad", "good"):
            async with client(port) as device:
                assert await device.connect(name, will=Will(f"will/{name}", b"gone", retain=True)) == 0
            await wait_until(lambda name=name: ("publish", f"will/{name}") in hooks.questions)  # type: ignore[misc]  # a default binds
        assert await listener.message() == Message("will/good", b"gone", 0, retain=False)
        assert await listener.subscribe(("will/+", 0)) == [0]
        assert await listener.message() == Message("will/good", b"gone", 0, retain=True)


async def test_a_client_that_says_goodbye_has_no_will(hooks: Hooks, port: int) -> None:
    """DISCONNECT drops the will, even when it comes in one segment with everything else; a `$` topic never fires."""
    async with client(port) as device:
        device.send(connect_packet("polite", will=Will("will/polite")), publish_packet("last"), DISCONNECT_PACKET)
        await device.closed()
    for _ in range(2):  # The second begins when all of the first is over.
        async with client(port) as device:
            assert await device.connect("system", will=Will("$SYS/broker")) == 0
    assert hooks.questions == [("publish", "last")]


async def test_hooks_that_are_down_refuse_everybody(hooks: Hooks) -> None:
    """Nobody to ask is a no, for logins and for the topics of those who are in."""
    async with contextlib.AsyncExitStack() as stack:
        async with running_hooks() as brief:
            broker = await stack.enter_async_context(EmbeddedBroker(EmbeddedBrokerConfig(port=0, hooks_url=brief.url)))
            device = await stack.enter_async_context(client(broker.port))
            assert await device.connect("inside") == 0
        late = await stack.enter_async_context(client(broker.port))
        assert await late.connect("late") == 5
        assert await device.subscribe(("a", 0)) == [0x80]
    assert hooks.asked == []


async def test_hooks_that_are_slow_refuse_in_time(hooks: Hooks) -> None:
    """No answer within `request_timeout` is a no, for logins and for topics."""
    never = asyncio.Event()
    config = EmbeddedBrokerConfig(port=0, hooks_url=hooks.url, request_timeout=0.2)
    async with EmbeddedBroker(config) as broker, client(broker.port) as device, client(broker.port) as other:
        assert await device.connect("dev") == 0
        hooks.answer = lambda _: Reply(hold=never)
        assert await device.subscribe(("a", 0)) == [0x80]
        assert await other.connect("other") == 5


async def test_a_question_is_repeated_on_a_new_connection(hooks: Hooks, port: int) -> None:
    """A pooled connection that the hooks have closed costs nobody a refusal: EMQX asks again too."""
    async with client(port) as device:
        assert await device.connect("dev") == 0
        hooks.drop_next = True
        assert await device.subscribe(("a", 1)) == [1]
    assert hooks.questions == [("subscribe", "a")] * 2


async def test_passwords_reach_the_hooks_and_nothing_else(
    hooks: Hooks, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the lowest log level, neither a log line nor the output holds a password or the hook key."""
    caplog.set_level(0)
    config = EmbeddedBrokerConfig(port=0, hooks_url=hooks.url, hook_key="key-5f7e")
    async with EmbeddedBroker(config) as broker, client(broker.port) as device, client(broker.port) as refused:
        assert await device.connect("dev", "alice", "pass-93ab") == 0
        await device.publish("a", qos=1)
        hooks.answer = lambda _: Reply(status=500)
        assert await refused.connect("dev", "alice", "pass-93ab") == 5
        device.send(connect_packet("dev", "alice", "pass-93ab"))
        await device.closed()
    said = caplog.text + "".join(capsys.readouterr()) + repr(config)
    assert "HTTP 500" in said
    assert "pass-93ab" not in said
    assert "key-5f7e" not in said
