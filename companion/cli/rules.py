"""`companion rules`: add, list, remove."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from companion.cli.audited import done, with_audited_store
from companion.cli.context import counted, print_json, print_rows, with_store
from companion.core.errors import Invalid
from companion.core.rules import (
    ANY_QOS,
    EVERYONE,
    Effect,
    Rule,
    RuleAction,
    subject_of_account,
    subject_of_group,
    subject_of_kind,
    subject_of_tenant,
)
from companion.core.windows import Window

app = typer.Typer(help="Rules: who may publish and subscribe where. Deny beats allow.", no_args_is_help=True)


@app.command()
def add(
    effect: Annotated[Effect, typer.Argument(help="What the rule does.", show_default=False)],
    action: Annotated[RuleAction, typer.Argument(help="What it speaks about.", show_default=False)],
    topic_filter: Annotated[
        str,
        typer.Argument(
            metavar="FILTER",
            help="Topic filter, with ${username}, ${clientid}, ${principal}, ${session} and ${tenant} (quote it for the shell).",
            show_default=False,
        ),
    ],
    account: Annotated[str, typer.Option(help="For this account.", show_default=False)] = "",
    kind: Annotated[str, typer.Option(help="For device, user, service or session.", show_default=False)] = "",
    group: Annotated[str, typer.Option(help="For everybody in this group.", show_default=False)] = "",
    tenant: Annotated[str, typer.Option(help="For everybody of this tenant.", show_default=False)] = "",
    everyone: Annotated[bool, typer.Option("--everyone", help="For everybody.")] = False,
    qos: Annotated[str, typer.Option(help="Only these QoS levels, such as 0,1.")] = "0,1,2",
    retain: Annotated[
        bool | None,
        typer.Option("--retain/--no-retain", help="Only retained, or only other, publishes.", show_default=False),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="Only from each time of a cron line on for so many seconds, as CRON;SECONDS or CRON;SECONDS;ZONE,"
            " such as '0 8 * * mon-fri;36000;Europe/Berlin'; may be repeated.",
            show_default=False,
        ),
    ] = None,
    location: Annotated[
        list[str] | None,
        typer.Option(
            help="Only from this address or network, such as 10.0.0.0/8; may be repeated.", show_default=False
        ),
    ] = None,
) -> None:
    """Add a rule for one account, a kind, a group, a tenant, or for everyone."""
    named = {
        subject_of_account: account,
        subject_of_kind: kind,
        subject_of_group: group,
        subject_of_tenant: tenant,
    }
    subjects = [make(name) for make, name in named.items() if name] + [EVERYONE] * everyone
    if len(subjects) != 1:
        raise Invalid("--account, --kind, --group, --tenant, --everyone", "none or several", "exactly one of them")
    (subject,) = subjects
    rule = Rule(
        subject,
        effect,
        action,
        topic_filter,
        _qos(qos),
        retain,
        windows=tuple(map(_window, window or ())),
        locations=tuple(location or ()),
    )
    what = f"{effect.value} {action.value} {topic_filter}"
    stored = with_audited_store(
        lambda store: store.rules.add(rule),
        # Whom it is for stands where the anonymizer finds it.
        lambda added: [
            done("rule_added", username=account, rule=added.id, detail=what if account else f"{what} for {subject}")
        ],
    )
    typer.echo(f"added rule {stored.id}: {what} for {subject}")


@app.command("list")
def list_rules(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the stored rules; everybody may also subscribe to {principal}/#."""
    rules = with_store(lambda store: store.rules.list())
    described = [
        {
            "id": rule.id,
            "subject": rule.subject,
            "effect": rule.effect.value,
            "action": rule.action.value,
            "filter": rule.filter,
            "qos": sorted(rule.qos),
            "retain": rule.retain,
            "windows": [asdict(one) for one in rule.windows],
            "locations": list(rule.locations),
        }
        for rule in rules
    ]
    if as_json:
        print_json(described)
        return
    rows = [
        (
            rule.id,
            rule.subject,
            rule.effect.value,
            rule.action.value,
            rule.filter,
            "any" if rule.qos == ANY_QOS else ",".join(str(level) for level in sorted(rule.qos)),
            {None: "any", True: "yes", False: "no"}[rule.retain],
            "; ".join(f"{one.cron} for {one.duration} s ({one.timezone})" for one in rule.windows) or "always",
            ", ".join(rule.locations) or "anywhere",
        )
        for rule in rules
    ]
    columns = ("id", "subject", "effect", "action", "filter", "qos", "retain", "when", "from where")
    print_rows(counted(len(rows), "rule"), columns, rows)


@app.command()
def remove(
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="Number of the rule.", show_default=False)],
) -> None:
    """Remove a rule."""
    removed = with_audited_store(
        lambda store: store.rules.remove(rule_id),
        lambda found: [done("rule_removed", rule=rule_id)] if found else [],
    )
    if not removed:
        raise Invalid("id", rule_id, "a rule that exists (companion rules list)")
    typer.echo(f"removed rule {rule_id}")


def _qos(text: str) -> frozenset[int]:
    parts = [part.strip() for part in text.split(",")]
    if any(part not in ("0", "1", "2") for part in parts):
        raise Invalid("--qos", text, "one or more of 0, 1, 2, with commas between")
    return frozenset(int(part) for part in parts)


def _window(text: str) -> Window:
    parts = [part.strip() for part in text.split(";")]
    if len(parts) not in {2, 3} or not parts[1].isdecimal() or not parts[1].isascii():
        raise Invalid(
            "--window", text, "CRON;SECONDS or CRON;SECONDS;ZONE, such as 0 8 * * mon-fri;36000;Europe/Berlin"
        )
    return Window(parts[0], int(parts[1]), *parts[2:])
