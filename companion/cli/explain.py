"""`companion explain`: why somebody may or may not publish or subscribe."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker_hooks.explain_request import asked, moment
from broker_hooks.explaining import Explainer, note_lookups
from broker_hooks.one_hop import acl_compiler
from broker_hooks.what_if import what_if as replayed
from companion.background import run
from companion.cli.context import counted, print_json, print_rows, settings, with_store
from companion.cli.operations_port import operations_connector, operations_url
from companion.core.errors import CompanionError, Invalid, Transient, shown
from companion.core.model import Action
from companion.core.ports import Store
from companion.keys import ops_keys
from companion.rule_files import read_rule_book, read_rule_set
from companion.settings import Settings

_TIMEOUT_SECONDS: Final = 30


def explain(
    topic: Annotated[str, typer.Option(help="Topic name, or topic filter.", show_default=False)] = "",
    action: Annotated[Action, typer.Option(help="What is asked for.")] = Action.PUBLISH,
    user: Annotated[str, typer.Option(help="User name.", show_default=False)] = "",
    client: Annotated[str, typer.Option(help="Client id.", show_default=False)] = "",
    qos: Annotated[int | None, typer.Option(min=0, max=2, help="QoS; else not known.", show_default=False)] = None,
    retain: Annotated[
        bool | None, typer.Option("--retain/--no-retain", help="Retained or not; else not known.", show_default=False)
    ] = None,
    peer: Annotated[str, typer.Option(help="Address of the client.", show_default=False)] = "",
    at: Annotated[str, typer.Option(help="A time, such as 2027-01-31T12:00:00Z; else now.", show_default=False)] = "",
    live: Annotated[
        bool, typer.Option("--live", help="Ask the running service, which also tells what it remembers.")
    ] = False,
    url: Annotated[
        str, typer.Option(help="Operations port of that service; from the settings when not given.", show_default=False)
    ] = "",
    what_if: Annotated[
        Path | None,
        typer.Option(
            help="Instead: tell which recorded decisions would change, were this TOML file the rules_file.",
            show_default=False,
        ),
    ] = None,
    records: Annotated[int, typer.Option(min=1, max=1_000_000, help="Newest records that are looked at.")] = 10_000,
    samples: Annotated[int, typer.Option(min=0, max=10_000, help="Changes that are shown one by one.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell whether a client may publish or subscribe, by which rule, and why no other rule decided."""
    if what_if is not None:
        if topic or live:
            raise Invalid("--what-if", str(what_if), "no --topic and no --live beside it")
        _replay(what_if, records, samples, as_json=as_json)
        return
    if not topic:
        raise Invalid("--topic", "nothing", "a topic name or a topic filter")
    body = {
        "username": user,
        "clientid": client,
        "action": action.value,
        "topic": topic,
        "qos": qos,
        "retain": retain,
        "peerhost": peer,
        "at": moment(at, "--at"),
    }
    current = settings()
    answer = run(_of_service(current, url, body)) if live else _of_store(current, body)
    if as_json:
        print_json(answer)
    else:
        _show(answer)


def _of_store(current: Settings, body: dict[str, Any]) -> dict[str, Any]:
    access, at = asked(body)
    book = read_rule_book(current)

    async def work(store: Store) -> dict[str, Any]:
        store.tell_lookups(note_lookups())
        return await Explainer(store, lambda: book, compile_acl=acl_compiler(current)).explain(access, at)

    return with_store(work)


async def _of_service(current: Settings, url: str, body: dict[str, Any]) -> dict[str, Any]:
    # Takes longer to import than most commands run.
    import aiohttp  # noqa: PLC0415 - see above

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    address = f"{operations_url(current, url)}/explain"
    headers = {"Authorization": f"Bearer {ops_keys(current)[0]}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=operations_connector(current)) as session,
            session.post(address, json=body, headers=headers) as response,
        ):
            if response.status != HTTPStatus.OK:
                said = shown(await response.text(), 300)
                raise CompanionError(f"the service refused the question ({response.status}): {said}")
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
        raise Transient(
            f"no answer from {address}: {str(problem) or type(problem).__name__}; is companion serve running?"
        ) from None


def _show(answer: dict[str, Any]) -> None:
    by = f" by rule {answer['rule']}" if answer["rule"] else ""
    detail = f" ({answer['detail']})" if answer["detail"] else ""
    typer.echo(f"{answer['verdict']}: {answer['reason']}{by}{detail}")
    for line in _facts(answer):
        typer.echo(f"  {line}")
    rows = [
        (
            one["id"],
            one["outcome"],
            ", ".join(one["misses"]),
            one["subject"],
            f"{one['effect']} {one['action']}",
            one["rendered"] or one["filter"],
        )
        for one in answer["rules"]
    ]
    more = f", {answer['rules_not_shown']} not shown" if answer["rules_not_shown"] else ""
    print_rows(
        f"{counted(len(rows), 'rule')} about it, in the order of their nearness{more}",
        ("id", "outcome", "missed", "subject", "does", "filter"),
        rows,
    )


def _who(account: Mapping[str, Any] | None, session: Mapping[str, Any] | None) -> list[str]:
    facts = []
    if account is not None:
        state = f"{account['kind']}, {account['state']}" if account["found"] else "none"
        mirror = f", the mirror: {account['mirror']}" if "mirror" in account else ""
        facts.append(f"account: {state} (from {account['from']}{mirror})")
    if session is not None:
        facts.append(f"session: {session['session']}, {session['state']}, scope {session['scope'] or '(none)'}")
    return facts


def _facts(answer: dict[str, Any]) -> list[str]:
    facts = [f"at: {dt.datetime.fromtimestamp(answer['asked']['at'], dt.UTC).isoformat()}"]
    if "problem" in answer:
        facts.append(f"the store: {answer['problem']}")
    facts += _who(answer["account"], answer["session"])
    if answer["values"]:
        facts.append("values: " + ", ".join(f"{name}={value}" for name, value in answer["values"].items()))
    if answer["subjects"]:
        facts.append("rules of: " + ", ".join(answer["subjects"]))
    if answer["beyond_scope"]:
        facts.append("grants beyond the token's scope: " + ", ".join(answer["beyond_scope"]))
    if answer["cache"] is not None:
        facts.append(f"from memory, {answer['cache']['age']:.0f} s old, for {answer['cache']['left']:.0f} s more")
        if answer["store"] is not None and answer["store"]["verdict"] != answer["verdict"]:
            facts.append(f"the store would answer now: {answer['store']['verdict']}: {answer['store']['reason']}")
    if answer["list"] is not None:
        facts.append(_who_decides(answer["list"]))
    if answer["shadow"] is not None:
        facts.append(f"the shadow would answer: {answer['shadow']['verdict']}: {answer['shadow']['reason']}")
    return [_line(fact) for fact in facts]


def _who_decides(listed: Mapping[str, Any]) -> str:
    if listed["exact"]:
        return "EMQX decides by the list that it gets with the login"
    blame = f" (rule {listed['rule']})" if listed["rule"] else ""
    return f"EMQX decides by asking: {listed['why']}{blame}"


def _replay(file: Path, records: int, samples: int, *, as_json: bool) -> None:
    candidate = read_rule_set(file, "--what-if", "what-if")
    enforced = read_rule_book(settings()).enforced
    report = with_store(lambda store: replayed(store, enforced, candidate, records=records, samples=samples))
    if as_json:
        print_json(report)
    else:
        print_report(report)


def print_report(report: Mapping[str, Any]) -> None:
    """Print what a replay came to, for people."""
    typer.echo(
        f"{report['replayed']} of {report['records']} recorded decisions replayed: {report['would_allow']} would be allowed,"
        f" {report['would_refuse']} refused, {report['same']} stay as they are, {report['unsure']} depend on QoS or retain"
    )
    for note in report["notes"]:
        typer.echo(f"  {note}")
    if report["samples"]:
        rows = [
            (
                dt.datetime.fromtimestamp(one["at"] / 1000, dt.UTC).isoformat(timespec="seconds"),
                one["username"],
                one["client_id"],
                f"{one['action']} {one['topic']}",
                one["now"],
                one["then"],
            )
            for one in report["samples"]
        ]
        print_rows(
            f"{len(rows)} of them", ("recorded at", "user", "client", "wants to", "by today's rules", "then"), rows
        )


def _line(text: str) -> str:
    """Return what came from data as one printable line."""
    return text if text.isprintable() else ascii(text)[1:-1]
