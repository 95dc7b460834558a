"""The command `companion`: sub-commands, and how errors reach a person: one line on standard error, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from companion.background import run
from companion.cli import (
    accounts,
    archive,
    audit,
    change,
    config,
    explain,
    jobs,
    lockouts,
    presence,
    refused,
    revoke,
    rules,
    stats,
    stores,
    tokens,
)
from companion.cli.context import loaded, settings, use_config
from companion.core.errors import CompanionError, shown
from companion.settings import Role

INTERRUPTED: Final = 130

# Typer carries its own copy of click, or uses click, by version; either way this is the root of its errors.
UsageProblem: Final[type[Exception]] = next(
    base for base in typer.BadParameter.__mro__ if issubclass(base, Exception) and base.__name__ == "ClickException"
)

app = typer.Typer(
    name="companion",
    help="The service beside an EMQX broker: HTTP hooks, change publishing, maintenance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(accounts.app, name="accounts")
app.add_typer(tokens.app, name="tokens")
app.add_typer(rules.app, name="rules")
app.add_typer(lockouts.app, name="lockouts")
app.add_typer(stores.app, name="stores")
app.add_typer(jobs.app, name="jobs")
app.add_typer(archive.app, name="archive")
app.add_typer(stats.app, name="stats")
app.add_typer(revoke.app, name="revoke")
app.add_typer(audit.app, name="audit")
app.command("change")(change.change)
app.command("explain")(explain.explain)
app.command("config")(config.config)
app.command("presence")(presence.presence)
app.command("refused")(refused.refused)


@app.callback()
def common(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings, as COMPANION_CONFIG names it.", show_default=False),
    ] = None,
) -> None:
    """Take the options that every command knows."""
    use_config(config_file)


@app.command("serve")
def serve_command(
    role: Annotated[Role, typer.Option(help="What this process does.")] = Role.ALL,
    workers: Annotated[
        int,
        typer.Option(min=1, max=256, help="Processes that answer the hooks; with several, one more looks after them."),
    ] = 1,
) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    # The commands that only look at the store start in half the time without it.
    from companion.logs import configure_logs  # noqa: PLC0415 - see above
    from companion.runtime import serve  # noqa: PLC0415 - see above

    if workers > 1 and role not in {Role.HOOKS, Role.ALL}:
        raise typer.BadParameter(f"--workers: 1 with the role {role.value}, which answers no hooks")
    current = settings()
    configure_logs(current.log_format, current.log_level)
    run(serve(current, role, workers, reread=lambda: loaded().settings))


@app.command("demo")
def demo_command(
    once: Annotated[bool, typer.Option("--once", help="End after the tour instead of waiting for Ctrl-C.")] = False,
) -> None:
    """Show everything at work: a broker, the service, two accounts, an entity that changes."""
    # Only the demo needs the extra `embedded`.
    from companion.demo import demo  # noqa: PLC0415 - see above

    run(demo(settings(), once=once))


def main() -> NoReturn:
    """Run the command line; exits 0, 1 for what went wrong, 2 for wrong usage or settings, 130 after Ctrl-C."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.Abort:
        _leave("interrupted", INTERRUPTED)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except CompanionError as problem:
        _leave(str(problem), 1)
    except BaseExceptionGroup as group:
        _leave("; ".join(_leaves(group)), 1)
    except UsageProblem as problem:
        _leave(str(problem).removeprefix("Value error, ").replace("\n", " "), 2)
    except OSError as problem:
        _leave(shown(str(problem), 300), 1)


def _leaves(problem: BaseException) -> list[str]:
    if isinstance(problem, BaseExceptionGroup):
        return [line for inner in problem.exceptions for line in _leaves(inner)]
    return [f"{type(problem).__name__}: {problem}"]


def _leave(message: str, code: int) -> NoReturn:
    typer.echo(f"companion: {message}", err=True)
    sys.exit(code)
