"""`companion accounts`: add, passwd, disable, enable, list, import."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from broker_hooks.certificates import pin_of_file
from broker_hooks.hashing import hash_password
from companion.cli import secrets
from companion.cli.audited import done, with_audited_store
from companion.cli.context import counted, print_json, print_rows, read_password, settings, with_store
from companion.cli.importing import check_username, parse_expiry, read_accounts
from companion.core.certificate_pins import checked_pin
from companion.core.client_attrs import is_attr_value
from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.core.ports import Store
from companion.core.scram import scram_keys

app = typer.Typer(help="Accounts: who may connect with a user name and a password.", no_args_is_help=True)
app.add_typer(secrets.app, name="secrets")

_PAGE = 1000

Username = Annotated[str, typer.Argument(help="User name, as MQTT clients send it.", show_default=False)]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File that holds the password (- is standard input); else you are asked.", show_default=False),
]


Groups = Annotated[
    list[str] | None, typer.Option("--group", help="A group that it is in; may be repeated.", show_default=False)
]
Tenant = Annotated[str, typer.Option(help="The tenant that it belongs to.", show_default=False)]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Attribute for the broker (COMPANION_HOOKS_CLIENT_ATTRS); may be given several times.",
        show_default=False,
    ),
]


Certificates = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PIN",
        help="Client certificate that it is known by: cn:NAME, subject:DN, sha256:FINGERPRINT, or file:PATH of one as PEM.",
        show_default=False,
    ),
]


@app.command()
def add(
    username: Username,
    kind: Annotated[Kind, typer.Option(help="What it stands for; rules can be given to a whole kind.")] = Kind.DEVICE,
    principal: Annotated[
        str, typer.Option(help="Whose topics it owns; the user name when not given.", show_default=False)
    ] = "",
    expires: Annotated[
        str, typer.Option(help="End of the account, such as 2027-01-31T12:00:00Z.", show_default=False)
    ] = "",
    group: Groups = None,
    tenant: Tenant = "",
    attribute: Attributes = None,
    certificate: Certificates = None,
    superuser: Annotated[bool, typer.Option("--superuser", help="May do whatever no rule denies.")] = False,
    password_file: PasswordFile = None,
) -> None:
    """Add an account; its password comes from a prompt or a file, never from an argument."""
    check_username(username, "username")
    check_username(principal or username, "principal")
    expires_at = parse_expiry(expires, "--expires")
    password = read_password(password_file)
    password_hash = hash_password(password, settings().password_cost)
    groups = _membership(group, tenant)
    account = Account(
        username,
        kind,
        principal or username,
        password_hash,
        expires_at=expires_at,
        groups=groups,
        tenant=tenant,
        attributes=_attributes(attribute or []),
        superuser=superuser,
        certificates=_pins(certificate or []),
        scram=_scram(password),
    )
    with_audited_store(
        lambda store: store.accounts.add([account]),
        lambda _: [done("account_added", username=username, detail=kind.value)],
    )
    typer.echo(f"added {kind.value} {username}")


@app.command()
def passwd(username: Username, password_file: PasswordFile = None) -> None:
    """Replace the password of an account."""
    password = read_password(password_file)
    password_hash = hash_password(password, settings().password_cost)
    scram = _scram(password)
    _known(
        username,
        found=with_audited_store(
            lambda store: store.accounts.set_password(username, password_hash, scram),
            lambda found: [done("account_password_changed", username=username)] if found else [],
        ),
    )
    typer.echo(f"changed the password of {username}")


@app.command("set")
def set_account(
    username: Username,
    attribute: Attributes = None,
    certificate: Certificates = None,
    superuser: Annotated[
        bool | None,
        typer.Option("--superuser/--no-superuser", help="May do whatever no rule denies, or not.", show_default=False),
    ] = None,
) -> None:
    """Replace all attributes or certificates of an account, or what it may; what is not given stays. A `-` leaves none."""
    if attribute is None and certificate is None and superuser is None:
        raise Invalid("--attribute, --certificate, --superuser", "none", "at least one of them")
    attributes = None if attribute is None else _attributes(attribute)
    certificates = None if certificate is None else _pins(certificate)
    _known(
        username,
        found=with_audited_store(
            lambda store: store.accounts.adjust(
                username, attributes=attributes, superuser=superuser, certificates=certificates
            ),
            lambda found: [done("account_changed", username=username)] if found else [],
        ),
    )
    typer.echo(f"changed {username}")


@app.command()
def disable(username: Username) -> None:
    """Refuse an account from now on."""
    _known(username, found=_switched(username, disabled=True))
    typer.echo(f"disabled {username}")


@app.command()
def enable(username: Username) -> None:
    """Admit a disabled account again."""
    _known(username, found=_switched(username, disabled=False))
    typer.echo(f"enabled {username}")


@app.command()
def assign(
    username: Username,
    group: Groups = None,
    tenant: Tenant = "",
) -> None:
    """Put an account into these groups and this tenant, and into no others."""
    groups = _membership(group, tenant)
    _known(
        username, found=with_store(lambda store: store.accounts.set_membership(username, groups=groups, tenant=tenant))
    )
    typer.echo(f"{username} is in {', '.join(groups) or 'no group'}, {'of ' + tenant if tenant else 'of no tenant'}")


@app.command("list")
def list_accounts(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the accounts, without their hashes."""
    accounts = with_store(_all)
    if as_json:
        print_json(
            [
                {
                    "username": account.username,
                    "kind": account.kind.value,
                    "principal": account.principal,
                    "disabled": account.disabled,
                    "expires_at": account.expires_at,
                    "groups": list(account.groups),
                    "tenant": account.tenant,
                }
                | ({"attributes": dict(account.attributes)} if account.attributes else {})
                | ({"superuser": True} if account.superuser else {})
                | ({"certificates": list(account.certificates)} if account.certificates else {})
                for account in accounts
            ]
        )
        return
    rows = [
        (
            account.username,
            account.kind.value,
            account.principal,
            "disabled" if account.disabled else "enabled",
            datetime.fromtimestamp(account.expires_at, UTC).isoformat() if account.expires_at is not None else "never",
            ", ".join(account.groups),
            account.tenant,
        )
        for account in accounts
    ]
    columns = ("username", "kind", "principal", "state", "expires", "groups", "tenant")
    print_rows(counted(len(rows), "account"), columns, rows)


@app.command("import")
def import_accounts(
    file: Annotated[
        Path, typer.Argument(help="CSV with a header, or JSON (a list, or one object a line).", show_default=False)
    ],
) -> None:
    """Import accounts with bcrypt or PBKDF2 hashes, all or none. Columns: username (or user_id), password_hash, kind, principal,
    disabled, expires_at, groups (a list; in CSV with ; between), tenant."""  # noqa: D205, D209 - typer shows the whole text
    accounts = read_accounts(file, settings().password_max_cost)
    with_audited_store(
        lambda store: store.accounts.add(accounts),
        lambda _: [done("account_imported", username=one.username, detail=one.kind.value) for one in accounts],
    )
    typer.echo(f"imported {counted(len(accounts), 'account')}")


def _membership(groups: list[str] | None, tenant: str) -> tuple[str, ...]:
    """Return the groups, each once. Raises `Invalid` for a name that is none."""
    for name in groups or ():
        check_username(name, "--group")
    if tenant:
        check_username(tenant, "--tenant")
    return tuple(dict.fromkeys(groups or ()))


def _switched(username: str, *, disabled: bool) -> bool:
    reason = "account_disabled" if disabled else "account_enabled"
    return with_audited_store(
        lambda store: store.accounts.set_disabled(username, disabled=disabled),
        lambda found: [done(reason, username=username)] if found else [],
    )


def _attributes(listed: list[str]) -> dict[str, str]:
    attributes = {}
    for one in listed:
        name, equals, value = one.partition("=")
        if one != "-":
            if not (name and equals and is_attr_value(value)):
                raise Invalid("--attribute", one, "NAME=VALUE, with a printable value of up to 1024 characters")
            attributes[name] = value
    return attributes


def _scram(password: str) -> str:
    """Return what is kept of a password for SCRAM; empty where that is off."""
    current = settings()
    if current.scram_algorithm == "none":
        return ""
    return str(scram_keys(password, current.scram_algorithm, current.scram_iterations))


def _pins(listed: list[str]) -> tuple[str, ...]:
    return tuple(
        pin_of_file(Path(one.removeprefix("file:"))) if one.startswith("file:") else checked_pin(one)
        for one in listed
        if one != "-"
    )


def _known(username: str, *, found: bool) -> None:
    if not found:
        raise Invalid("username", username, "an account that exists (companion accounts list)")


async def _all(store: Store) -> list[Account]:
    accounts: list[Account] = []
    while page := await store.accounts.list(after=accounts[-1].username if accounts else "", limit=_PAGE):
        accounts += page
    return accounts
