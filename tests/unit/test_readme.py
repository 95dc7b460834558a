"""What the README says of the settings is what the settings are."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from companion.core.routing import DEFAULT_TOPICS
from companion.settings import Settings

README = Path(__file__).parents[2] / "README.md"
MADE = {
    "data_dir": "per-user data directory",
    "password_workers": "number of cores",
    "jobs_schedules": "(none)",
    "cleaner_policies": "(none)",
    "anonymizer_accounts": "(none)",
    "anonymizer_traces": "(none)",
    "stats_timezones": "(none)",
    "token_required": "(none)",
    "token_forbidden": "(none)",
    "token_client_attrs": "(none)",
    "hooks_client_attrs": "(none)",
}


def default_of(name: str) -> str:
    """Return how the README shows the default of a setting."""
    default = Settings.model_fields[name].default
    if default is PydanticUndefined:
        return MADE[name]
    if default == DEFAULT_TOPICS:
        return "the platform's nine"
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or "(none)"
    return "(none)" if default in (None, "") or isinstance(default, SecretStr) else str(default)


def test_every_setting_has_its_row() -> None:
    """The table has one row per setting, in order, with its default and its meaning."""
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `COMPANION_")]
    assert rows == [
        f"| `COMPANION_{name.upper()}` | {default_of(name)} | {info.description} |"
        for name, info in Settings.model_fields.items()
    ]
