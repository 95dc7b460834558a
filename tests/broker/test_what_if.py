"""`companion explain --what-if`: recorded decisions of real hooks, replayed under another rule file."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_hooks.what_if import NOT_RECORDED, what_if
from companion.cli import main
from companion.cli.explain import print_report
from companion.core.model import Account, Audit, Kind
from companion.core.revocations import Target, revocation_of
from companion.core.rule_sets import RuleSet, parse_rule_set
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.windows import Window
from tests.support.service import Service, account_of, serving

FILE = """
[[rules]]
id = "a"
subject = "group:west"
effect = "allow"
action = "publish"
filter = "a/#"

[[rules]]
id = "b"
subject = "everyone"
effect = "allow"
action = "all"
filter = "b"
qos = [0]
"""


def candidate(text: str = FILE) -> RuleSet:
    return parse_rule_set(text, "--what-if", "what-if")


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks that have recorded: logins, good and bad, and refused publishes of alice, bob and nobody."""
    del logged
    async with serving(tmp_path / "data") as service:
        await service.store.accounts.add(
            [account_of("alice", "pw", groups=("west",)), Account("bob", Kind.DEVICE, "bob", "no hash")]
        )
        await service.login("alice", "pw")
        await service.login("alice", "guess")
        for user, topic in (("alice", "a/1"), ("alice", "a/2"), ("bob", "a/1"), ("alice", "b"), ("carol", "a/1")):
            assert not await service.may(user, "publish", topic)
        assert not await service.may("alice", "subscribe", "a/#")
        assert await service.may("alice", "subscribe", "alice/#")
        await service.audits(8)
        yield service


async def test_what_would_change(service: Service) -> None:
    """Counted by direction, sampled with both verdicts; what depends on the QoS, or was decided by no rule, is kept apart."""
    report = await what_if(service.store, RuleSet(), candidate(), records=100, samples=1)
    assert {
        name: report[name] for name in ("records", "replayed", "same", "would_allow", "would_refuse", "unsure")
    } == {
        "records": 8,
        "replayed": 5,
        "same": 2,
        "would_allow": 2,
        "would_refuse": 0,
        "unsure": 1,
    }
    assert report["not_by_rules"] == {
        "auth allow: password": 1,
        "auth deny: wrong_password": 1,
        "authz deny: not_connected": 1,
    }
    assert report["notes"][0] == NOT_RECORDED
    (sample,) = report["samples"]
    # The newest first.
    assert (sample["username"], sample["topic"], sample["now"], sample["then"]) == (
        "alice",
        "a/2",
        "deny: no_rule",
        "allow: rule (what-if:a)",
    )


async def test_the_rules_of_today_are_the_measure(service: Service) -> None:
    """What today's rules decide otherwise than was recorded is told, and is no change; what they allow may be refused again."""
    await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "a/1"))
    report = await what_if(service.store, RuleSet(), candidate("stored = false\n" + FILE), records=100, samples=9)
    assert report["recorded_otherwise"] == 2
    assert (report["would_allow"], report["would_refuse"]) == (1, 1)
    assert [(one["username"], one["then"]) for one in report["samples"]] == [
        ("bob", "deny: no_rule"),
        ("alice", "allow: rule (what-if:a)"),
    ]
    assert (await what_if(service.store, RuleSet(), RuleSet(), records=100, samples=9))["same"] == 5
    assert (await what_if(service.store, RuleSet(), candidate(), records=2, samples=9))["records"] == 2


async def test_times_and_places_are_those_of_the_record(service: Service) -> None:
    """A record of the night is judged by the rules of the night, from where it came."""
    night = 1_795_987_800_000  # 30 November 2026, 22:30 in Berlin
    window = Window("0 22 * * *", 3600, "Europe/Berlin")
    rule = Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "n", id="n", windows=(window,), locations=("10.0.0.0/8",))
    await service.store.audits.append(
        [
            Audit(at, "authz", "deny", "no_rule", "bob", "c", peer, "publish", "n")
            for at, peer in ((night, "10.0.0.1"), (night, "192.0.2.1"), (night + 3_600_000, "10.0.0.1"))
        ]
    )
    report = await what_if(service.store, RuleSet(), RuleSet((rule,)), records=3, samples=9)
    assert (report["would_allow"], report["same"]) == (1, 2)
    assert [(one["at"], one["peer_host"]) for one in report["samples"]] == [(night, "10.0.0.1")]


async def test_who_is_gone(service: Service) -> None:
    """Decisions about somebody who may not be used any more are counted apart."""
    await service.store.accounts.set_disabled("alice", disabled=True)
    report = await what_if(service.store, RuleSet(), candidate(), records=100, samples=9)
    assert (report["gone"], report["replayed"], report["would_allow"]) == (4, 1, 0)


async def test_who_is_revoked(service: Service) -> None:
    """Whom no rule could let in any more is counted apart as well."""
    await service.store.revocations.add(revocation_of(Target.ACCOUNT, "alice", time.time()))
    report = await what_if(service.store, RuleSet(), candidate(), records=100, samples=9)
    assert (report["gone"], report["replayed"], report["would_allow"]) == (4, 1, 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints counts, what is not covered, and samples; a bad file is one line."""
    monkeypatch.setenv("COMPANION_DATA_DIR", str(tmp_path / "data"))
    file = tmp_path / "rules.toml"
    file.write_text(FILE)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["companion", "explain", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out + captured.err

    code, said = run("--what-if", str(file))
    assert code == 0
    assert said.startswith("0 of 0 recorded decisions replayed: 0 would be allowed, 0 refused, 0 stay as they are")
    assert "not covered: publishes and subscribes that were allowed are not recorded" in said
    code, said = run("--what-if", str(file), "--json")
    assert json.loads(said)["records"] == 0
    assert run("--what-if", str(file), "--topic", "a")[0] == 1
    file.write_text("[[rules]]\n")
    assert run("--what-if", str(file)) == (
        1,
        "companion: --what-if.rules[1].subject: 'nothing' is not allowed; a text\n",
    )


async def test_the_report_for_people(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples are a table."""
    print_report(await what_if(service.store, RuleSet(), candidate(), records=100, samples=5))
    said = capsys.readouterr().out
    assert "2 of them" in said
    assert "publish a/2" in said
    assert "allow: rule (what-if:a)" in said
