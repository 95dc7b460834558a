"""Secrets among the settings stay secret: shown, wrong, or in the wrong place."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from companion.loading import PREFIX, displayed, load
from companion.settings import Settings, secret_fields
from tests.support.settings import LONG, MARK, refused, with_file


def test_secrets_are_not_shown() -> None:
    """Neither the settings, nor what shows them to people, repeat a secret."""
    loaded = load({f"{PREFIX}{name.upper()}": LONG for name in secret_fields()})
    shown = dict(displayed(loaded.settings))
    assert {shown[name] for name in secret_fields()} == {"(1 set, hidden)", "(set, hidden)"}
    for text in (repr(loaded), str(loaded.settings), repr(shown), loaded.settings.model_dump_json()):
        assert MARK not in text
    nothing = dict(displayed(Settings()))
    assert {nothing[name] for name in secret_fields()} == {"(not set)"}


def test_everything_is_shown() -> None:
    """Every setting is there as text: lists with commas, what is not set as nothing."""
    shown = dict(displayed(Settings(token_algorithms=("HS256", "HS512"))))
    assert list(shown) == list(Settings.model_fields)
    assert (shown["hooks_port"], shown["mqtt_ca_file"], shown["token_algorithms"]) == ("8080", "", "HS256, HS512")


WRONG_SECRETS: dict[str, dict[str, Any]] = {
    "a hook key with a space": {"COMPANION_HOOKS_KEYS": f"{MARK} x"},
    "a hook key with an umlaut": {"COMPANION_HOOKS_KEYS": f"{MARK}ü"},
    "one of many": {"COMPANION_OPS_KEYS": f"{LONG},short,{MARK}"},
    "a token secret that is too short": {"COMPANION_TOKEN_SECRETS": MARK},
    "a token secret that is too short for its algorithm": {
        "COMPANION_TOKEN_SECRETS": MARK.ljust(48, "x"),
        "COMPANION_TOKEN_ALGORITHMS": "HS256,HS512",
    },
    "beside another mistake": {"COMPANION_MQTT_PASSWORD": MARK, "COMPANION_HOOKS_PORT": "x"},
    "beside a mistake between two": {"COMPANION_TOKEN_SECRETS": LONG, "COMPANION_HOOKS_DEADLINE": "1"},
}


@pytest.mark.parametrize("name", WRONG_SECRETS)
def test_wrong_secrets_are_not_shown(name: str) -> None:
    """What is wrong about a secret is said without it, also in what an error drags along."""
    problem = refused(WRONG_SECRETS[name])
    assert MARK not in "".join(traceback.format_exception(problem))


@pytest.mark.parametrize(
    "content",
    [
        f'[mqtt]\npasword = "{MARK}"',
        f'mqtt_pass = "{MARK}"',
        f'[mqtt.password]\nvalue = "{MARK}"',
        f'mqtt = "{MARK}"',
        f'[[hooks]]\nkeys = ["{MARK}"]',
        f'[hooks]\nkeys = [["{MARK}"]]',
        f'[hooks]\nkeys = {{a = "{MARK}"}}',
        f'[token]\nsecrets = ["{MARK}", 17]',
        f'[hooks.keys.deep]\nkey = "{MARK}"',
    ],
)
def test_secrets_in_the_wrong_place_are_not_shown(tmp_path: Path, content: str) -> None:
    """A secret under a misspelt name, or in a wrong form, is not repeated either."""
    problem = refused(with_file(tmp_path, content))
    assert MARK not in "".join(traceback.format_exception(problem))
    assert str(tmp_path) in str(problem)
