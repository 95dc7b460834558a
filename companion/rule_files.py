"""Rule sets from files, as the settings name them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from companion.core.errors import Invalid
from companion.core.rule_sets import RuleBook, RuleSet, parse_rule_set
from companion.settings import Settings

MAX_BYTES: Final = 32 * 1024 * 1024


def read_rule_book(settings: Settings) -> RuleBook:
    """Read the files of `rules_file` and `rules_shadow_file`, which are both good or neither is taken.

    Raises `Invalid` that names the setting, the rule and the field.
    """
    enforced, shadow = settings.rules_file, settings.rules_shadow_file
    return RuleBook(
        RuleSet() if enforced is None else read_rule_set(enforced, "rules_file", "file"),
        None if shadow is None else read_rule_set(shadow, "rules_shadow_file", "shadow"),
    )


def read_rule_set(path: Path, origin: str, prefix: str) -> RuleSet:
    """Read one file. `origin` is what a mistake in it is told about. Raises `Invalid`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Invalid(origin, str(path), f"a file of at most {MAX_BYTES} bytes")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid(origin, str(path), f"a UTF-8 file that can be read ({problem})") from None
    return parse_rule_set(text, origin, prefix)
