"""`companion rules`: add, list, remove."""

from __future__ import annotations

from typing import Annotated

import typer

from companion.cli.context import print_json, print_rows, with_store
from companion.core.errors import Invalid
from companion.core.rules import ANY_QOS, EVERYONE, Effect, Rule, RuleAction, subject_of_account, subject_of_kind

app = typer.Typer(help="Rules: who may publish and subscribe where. Deny beats allow.", no_args_is_help=True)


@app.command()
def add(
    effect: Annotated[Effect, typer.Argument(help="What the rule does.", show_default=False)],
    action: Annotated[RuleAction, typer.Argument(help="What it speaks about.", show_default=False)],
    topic_filter: Annotated[
        str,
        typer.Argument(
            metavar="FILTER",
            help="Topic filter, with ${username}, ${clientid}, ${principal} and ${session} (quote it for the shell).",
            show_default=False,
        ),
    ],
    account: Annotated[str, typer.Option(help="For this account.", show_default=False)] = "",
    kind: Annotated[str, typer.Option(help="For device, user, service or session.", show_default=False)] = "",
    everyone: Annotated[bool, typer.Option("--everyone", help="For everybody.")] = False,
    qos: Annotated[str, typer.Option(help="Only these QoS levels, such as 0,1.")] = "0,1,2",
    retain: Annotated[
        bool | None,
        typer.Option("--retain/--no-retain", help="Only retained, or only other, publishes.", show_default=False),
    ] = None,
) -> None:
    """Add a rule for one account, for a kind, or for everyone."""
    if (bool(account), bool(kind), everyone).count(True) != 1:
        raise Invalid("--account, --kind, --everyone", "none or several", "exactly one of them")
    subject = subject_of_account(account) if account else subject_of_kind(kind) if kind else EVERYONE
    rule = Rule(subject, effect, action, topic_filter, _qos(qos), retain)
    stored = with_store(lambda store: store.rules.add(rule))
    typer.echo(f"added rule {stored.id}: {effect.value} {action.value} {topic_filter} for {subject}")


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
        )
        for rule in rules
    ]
    print_rows(f"{len(rows)} rules", ("id", "subject", "effect", "action", "filter", "qos", "retain"), rows)


@app.command()
def remove(
    rule_id: Annotated[str, typer.Argument(metavar="ID", help="Number of the rule.", show_default=False)],
) -> None:
    """Remove a rule."""
    if not with_store(lambda store: store.rules.remove(rule_id)):
        raise Invalid("id", rule_id, "a rule that exists (companion rules list)")
    typer.echo(f"removed rule {rule_id}")


def _qos(text: str) -> frozenset[int]:
    parts = [part.strip() for part in text.split(",")]
    if any(part not in ("0", "1", "2") for part in parts):
        raise Invalid("--qos", text, "one or more of 0, 1, 2, with commas between")
    return frozenset(int(part) for part in parts)
