"""`POST /explain` and `companion explain`: what the hooks decide, and why, over real HTTP and as a command."""

from __future__ import annotations

import datetime as dt
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker_hooks.explaining import Explainer
from companion.cli import main
from companion.cli.explain import _of_service, _show
from companion.core.model import Access, Account, Action, Kind, Session
from companion.core.revocations import Target, revocation_of
from companion.core.rule_sets import RuleBook
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account, subject_of_group
from companion.core.windows import Window
from companion.stores.opening import open_store
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds
from tests.support.mosquitto import free_port
from tests.support.service import OPS_KEY, Service, make_settings, serving

ALICE = subject_of_account("alice")
NIGHT = Window("0 22 * * *", 8 * 3600, "Europe/Berlin")


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks with a device `alice` of the group `west`, and rules about `t/#` for her."""
    del logged
    shadow = tmp_path / "shadow.toml"
    shadow.write_text("stored = false\n")
    async with serving(tmp_path / "data", token_secrets=(SecretStr(SECRET),), rules_shadow_file=shadow) as running:
        await running.store.accounts.add(
            [
                Account("alice", Kind.DEVICE, "p1", "no hash", groups=("west",), tenant="acme"),
                Account("off", Kind.DEVICE, "off", "no hash", disabled=True),
            ]
        )
        for rule in (
            Rule(ALICE, Effect.ALLOW, RuleAction.PUBLISH, "t/${username}/#", frozenset({0})),
            Rule(
                subject_of_group("west"),
                Effect.ALLOW,
                RuleAction.ALL,
                "t/#",
                windows=(NIGHT,),
                locations=("10.0.0.0/8",),
            ),
            Rule(ALICE, Effect.ALLOW, RuleAction.ALL, "elsewhere/#"),
            Rule(ALICE, Effect.DENY, RuleAction.ALL, "t/secret"),
        ):
            await running.store.rules.add(rule)
        yield running


async def explained(service: Service, status: int = 200, key: str = OPS_KEY, **body: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with service.http.post(f"{service.ops}/explain", json=body, headers=headers) as response:
        assert response.status == status
        answer = await response.json()
        assert isinstance(answer, dict)
        return answer


async def test_revoked(service: Service) -> None:
    """Somebody who is revoked is refused for that, from memory and from the store; lifted, the rules decide again."""
    asked: dict[str, Any] = {"username": "alice", "clientid": "c1", "action": "publish", "topic": "t/alice/x", "qos": 0}
    assert (await explained(service, **asked))["verdict"] == "allow"
    await service.may("alice", "publish", "t/alice/x", qos="0")
    one = revocation_of(Target.ACCOUNT, "alice", time.time())
    await service.store.revocations.add(one)

    async def refused() -> bool:
        return not await service.may("alice", "publish", "t/alice/x", qos="0")

    await eventually(refused, what="the hooks refuse")
    answer = await explained(service, **asked)
    assert (answer["verdict"], answer["reason"], answer["store"]["reason"]) == ("deny", "revoked", "revoked")
    await service.store.revocations.lift(one.id, 1)
    assert (await explained(service, **asked))["store"]["verdict"] == "allow"


async def test_near_misses(service: Service) -> None:
    """The verdict, who somebody is, the rendered rules, and what each of them missed."""
    answer = await explained(
        service,
        username="alice",
        clientid="c1",
        action="publish",
        topic="t/alice/x",
        qos=1,
        peerhost="192.0.2.1",
        at="2026-11-25T12:00:00+01:00",
    )
    assert (answer["verdict"], answer["reason"], answer["rule"], answer["decided_from"]) == (
        "deny",
        "no_rule",
        "",
        "store",
    )
    assert answer["account"] == {
        "found": True,
        "from": "sqlite",
        "state": "usable",
        "kind": "device",
        "principal": "p1",
        "disabled": False,
        "expires_at": None,
        "groups": ["west"],
        "tenant": "acme",
        "subjects": [],
    }
    assert answer["session"] is None
    assert answer["values"] == {"username": "alice", "clientid": "c1", "principal": "p1", "tenant": "acme"}
    assert answer["subjects"] == ["everyone", "kind:device", "tenant:acme", "group:west", "account:alice"]
    assert [(one["id"], one["rendered"], one["misses"]) for one in answer["rules"]] == [
        ("1", "t/alice/#", ["qos"]),
        ("2", "t/#", ["time", "location"]),
        ("4", "t/secret", ["topic"]),
        ("3", "elsewhere/#", ["topic"]),
        ("own:session", "", ["value"]),
    ]
    assert answer["rules_not_shown"] == 0
    assert answer["shadow"]["verdict"] == "deny"


async def test_other_times_and_places(service: Service) -> None:
    """The same at night from within: allowed by the other rule; the denial beats it where both have to do with the topic."""
    night: dict[str, Any] = {
        "username": "alice",
        "clientid": "c1",
        "peerhost": "10.0.0.1",
        "at": "2026-11-25T23:00:00+01:00",
    }
    answer = await explained(service, action="publish", topic="t/alice/x", qos=1, **night)
    assert (answer["verdict"], answer["rule"]) == ("allow", "2")
    answer = await explained(service, action="publish", topic="t/secret", **night)
    assert (answer["verdict"], answer["reason"], answer["rule"]) == ("deny", "denied_by_rule", "4")
    assert {one["id"]: one["outcome"] for one in answer["rules"]} == {
        "4": "decided",
        "2": "beaten",
        "1": "missed",
        "3": "missed",
        "own:session": "missed",
    }
    answer = await explained(service, action="subscribe", topic="$share/g/p1/#", username="alice", clientid="c1")
    assert (answer["verdict"], answer["reason"], answer["shadow"]["verdict"]) == ("allow", "own_topic", "allow")


async def test_what_is_remembered(service: Service) -> None:
    """Where the hooks would answer from memory, that is the verdict, with its age; the store's is told beside it."""
    ask: dict[str, Any] = {"username": "alice", "clientid": "c1", "action": "publish", "topic": "elsewhere/1"}
    assert (await explained(service, **ask))["cache"] is None
    await service.remembers("alice", "elsewhere/1")
    answer = await explained(service, **ask)
    assert (answer["verdict"], answer["decided_from"]) == ("allow", "cache")
    assert answer["cache"]["verdict"] == "allow"
    assert 0 <= answer["cache"]["age"] < 60
    assert 0 < answer["cache"]["left"] <= 60
    assert answer["store"]["verdict"] == "allow"
    later = await explained(service, **ask, at=4_000_000_000)
    assert (later["cache"], later["decided_from"]) == (None, "store")
    # Looking changes nothing of what is looked at.
    misses = await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss")
    await explained(service, **ask)
    assert await service.metric("companion_cache_lookups_total", cache="policy", outcome="miss") == misses


@pytest.mark.parametrize(
    ("username", "reason", "state"),
    [("off", "account_disabled", "account_disabled"), ("nobody", "not_connected", None), ("", "not_connected", None)],
)
async def test_who_may_nothing(service: Service, username: str, reason: str, state: str | None) -> None:
    """A disabled account and nobody are refused whatever the topic, as by the hooks."""
    answer = await explained(service, username=username, clientid="c1", action="publish", topic="a")
    assert (answer["verdict"], answer["reason"], answer["rules"]) == ("deny", reason, [])
    assert (answer["account"] or {}).get("state") == state
    assert not await service.may(username, "publish", "a")


async def test_a_session(service: Service) -> None:
    """Its values and scope are told, grants beyond the scope by name; after its end it is refused."""
    session = Session(
        "u1", "s1:1", "u1", "s1", in_seconds(900), subject="u1@a.org", scope="subscribe", groups=("west",)
    )
    await service.store.sessions.put(session)
    ask: dict[str, Any] = {"username": "u1", "clientid": "s1:1", "action": "publish", "topic": "u1/s1/x"}
    answer = await explained(service, **ask)
    assert (answer["verdict"], answer["rule"]) == ("allow", "own:session")
    assert (answer["session"]["scope"], answer["session"]["state"]) == ("subscribe", "usable")
    assert answer["account"] == {"found": False, "from": "sqlite"}
    assert "group:west" in answer["subjects"]
    assert "grants:u1@a.org" in answer["subjects"]
    answer = await explained(service, **ask, at=in_seconds(1000))
    assert (answer["verdict"], answer["reason"], answer["session"]["state"]) == (
        "deny",
        "token_expired",
        "token_expired",
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "fly", "topic": "a"}, "action"),
        ({"topic": "a"}, "action"),
        ({"action": "publish", "topic": 7}, "topic"),
        ({"action": "publish", "topic": "a", "qos": 3}, "qos"),
        ({"action": "publish", "topic": "a", "qos": True}, "qos"),
        ({"action": "publish", "topic": "a", "retain": "yes"}, "retain"),
        ({"action": "publish", "topic": "a", "at": "noon"}, "at"),
        ({"action": "publish", "topic": "a", "at": "2026-11-25T12:00:00"}, "at"),
        ({"action": "publish", "topic": "a", "at": 1e300}, "at"),
        ({"action": "publish", "topic": "a", "password": "x"}, "password"),
    ],
)
async def test_questions_that_are_none(service: Service, body: dict[str, Any], field: str) -> None:
    """What is wrong is named."""
    assert (await explained(service, 422, **body))["field"] == field


async def test_a_key_is_needed(service: Service) -> None:
    """Nobody without the key of the operations port learns anything."""
    assert set(await explained(service, 401, "another-key-than-that-one", action="publish", topic="a")) == {"error"}


async def test_agreement_with_the_hooks(service: Service) -> None:
    """Over every topic, action, QoS, retain and address of a small world: the verdict is what the hooks answer and record."""
    asked = 0
    for topic in ("t/alice/x", "t/secret", "t/#", "elsewhere/1", "elsewhere/#", "p1/#", "p1", "a+", ""):
        for action in ("publish", "subscribe"):
            for qos, retain, peer in ((0, False, "10.0.0.1"), (1, True, "192.0.2.1"), (None, None, "")):
                told: dict[str, Any] = {"qos": qos, "retain": retain, "peerhost": peer}
                answer = await explained(service, username="alice", clientid="c1", action=action, topic=topic, **told)
                sent = {name: "" if value is None else str(value).lower() for name, value in told.items()}
                assert await service.may("alice", action, topic, **sent) is (answer["verdict"] == "allow")
                asked += 1
    assert asked == 54


async def test_who_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where EMQX gets lists, it is told whether this principal's is one, and until when, or what is in the way."""
    async with serving(tmp_path / "data", hooks_acl=True) as service:
        await service.store.accounts.add([Account("alice", Kind.DEVICE, "p1", "no hash")])
        ask: dict[str, Any] = {"username": "alice", "clientid": "c1", "action": "publish", "topic": "t/1"}
        answer = await explained(service, **ask)
        assert answer["list"] == {"exact": True, "why": "", "rule": "", "until": None}
        await service.store.rules.add(Rule(ALICE, Effect.ALLOW, RuleAction.ALL, "t/#", windows=(NIGHT,)))
        answer = await explained(service, **ask, at="2026-11-25T23:00:00+01:00")
        assert answer["list"]["until"] == dt.datetime.fromisoformat("2026-11-26T06:00:00+01:00").timestamp()
        _show(answer)
        assert "EMQX decides by the list that it gets with the login\n" in capsys.readouterr().out
        inexact = await service.store.rules.add(Rule(ALICE, Effect.ALLOW, RuleAction.SUBSCRIBE, "+/x/+"))
        answer = await explained(service, **ask)
        assert (answer["list"]["exact"], answer["list"]["rule"]) == (False, inexact.id)
        _show(answer)
        assert f"EMQX decides by asking: {answer['list']['why']} (rule {inexact.id})\n" in capsys.readouterr().out


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    """What cannot be looked up is said; the verdict is then what the hooks would say."""
    away = {name: f"{name}://127.0.0.1:{free_port()}" for name in ("mongodb", "redis")}
    settings = make_settings(
        tmp_path / "data", store="production", mongo_url=f"{away['mongodb']}/?replicaSet=rs0", redis_url=away["redis"]
    )
    async with open_store(settings) as store:
        answer = await Explainer(store, RuleBook).explain(Access(Action.PUBLISH, "a", "c", "alice"))
    assert (answer["verdict"], answer["reason"], answer["account"]) == ("deny", "store_away", None)
    assert answer["problem"]


Run = Callable[..., str]


@pytest.fixture
def companion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `companion ARGUMENTS` in this process; it must succeed."""
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COMPANION_PASSWORD_COST", "4")

    def run(*arguments: str, typed: str = "", code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["companion", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        return captured.err if code else captured.out

    return run


def test_the_command(companion: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the store alone: a verdict, who somebody is and the rules about the topic; as JSON what the service answers."""
    companion("accounts", "add", "alice", "--group", "west", "--password-file", "-", typed="pw")
    companion("rules", "add", "allow", "all", "t/${username}/+", "--group", "west", "--qos", "0,1")
    (tmp_path / "rules.toml").write_text(
        '[[rules]]\nid = "no"\nsubject = "everyone"\neffect = "deny"\naction = "all"\nfilter = "t/+/secret"\n'
    )
    monkeypatch.setenv("COMPANION_RULES_FILE", str(tmp_path / "rules.toml"))
    ask = ("explain", "--client", "c", "--user", "alice", "--action", "subscribe")
    shown = companion(*ask, "--topic", "t/alice/+", "--qos", "1")
    assert shown.startswith("deny: denied_by_rule by rule file:no\n")
    assert "account: device, usable (from sqlite)" in shown
    assert "values: username=alice, clientid=c, principal=alice" in shown
    assert "beaten" in shown
    shown = companion(*ask, "--topic", "t/alice/x", "--qos", "2")
    assert shown.startswith("deny: no_rule\n")
    assert "missed" in shown
    assert "qos" in shown
    answer = json.loads(companion(*ask, "--topic", "t/alice/x", "--qos", "0", "--json"))
    assert (answer["verdict"], answer["rule"], answer["cache"]) == ("allow", "1", None)
    assert "filter: 'a#'" not in shown
    assert "invalid_topic" in companion(*ask, "--topic", "a#")
    assert "--topic: 'nothing'" in companion(*ask, code=1)
    assert "--at: 'soon'" in companion(*ask, "--topic", "a", "--at", "soon", code=1)
    assert "is companion serve running?" in companion(
        *ask, "--topic", "a", "--live", "--url", "http://127.0.0.1:1", code=1
    )


async def test_the_command_against_the_service(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """With --live the running service answers, and tells what it remembers."""
    await service.remembers("alice", "elsewhere/1")
    body = {"username": "alice", "clientid": "c1", "action": "publish", "topic": "elsewhere/1"}
    answer = await _of_service(service.settings, service.ops, body)
    assert (answer["verdict"], answer["decided_from"]) == ("allow", "cache")
    _show(answer)
    said = capsys.readouterr().out
    assert said.startswith("allow: rule by rule 3\n")
    assert "from memory, " in said
