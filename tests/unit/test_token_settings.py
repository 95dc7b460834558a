"""Settings of tokens: what is taken, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.core.claim_tests import ClaimTest
from companion.core.errors import Invalid
from companion.loading import load
from tests.support.jwks import pem_of

REFUSED = {
    "an unknown algorithm": ({"TOKEN_ALGORITHMS": "none"}, "token_algorithms"),
    "public keys, but no algorithm for them": ({"TOKEN_KEYS": pem_of("rsa")}, "token_algorithms"),
    "a public key as a secret": (
        {"TOKEN_SECRETS": "-----BEGIN PUBLIC KEY-----AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        "token_secrets",
    ),
    "a URL with a password": ({"TOKEN_JWKS_URL": "https://u:p@host/keys"}, "token_jwks_url"),
    "another scheme": ({"TOKEN_JWKS_URL": "file:///etc/passwd"}, "token_jwks_url"),
    "a timeout beyond the deadline": (
        {"TOKEN_JWKS_URL": "https://a/b", "TOKEN_JWKS_TIMEOUT": "3", "TOKEN_ALGORITHMS": "RS256"},
        "token_jwks_timeout",
    ),
    "an unknown profile": ({"TOKEN_PROFILES": "other"}, "token_profiles"),
    "no principal": ({"TOKEN_PRINCIPAL": ""}, "token_principal"),
    "an unknown place": ({"TOKEN_FROM": "clientid"}, "token_from"),
    "a required claim without a value": ({"TOKEN_REQUIRED": '{"a":[]}'}, "token_required"),
    "an empty value": ({"TOKEN_FORBIDDEN": '{"a":""}'}, "token_forbidden"),
    "an unknown placeholder": ({"TOKEN_REQUIRED": '{"a":"${password}"}'}, "token_required"),
    "no table": ({"TOKEN_REQUIRED": "[1]"}, "token_required"),
    "an attribute that EMQX refuses": ({"TOKEN_CLIENT_ATTRS": '{"a.b":"c"}'}, "token_client_attrs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """One line names the setting."""
    environ, field = REFUSED[name]
    with pytest.raises(Invalid) as refused:
        load({f"COMPANION_{key}": value for key, value in environ.items()})
    assert refused.value.field.split(".")[0] == field


def test_from_the_file(tmp_path: Path) -> None:
    """Tables, paths and several inline keys are understood as they stand in the README."""
    path = tmp_path / "companion.toml"
    path.write_text(
        f'''
        [token]
        profiles = "generic"
        algorithms = "RS256, EdDSA"
        keys = """{pem_of("rsa")}{pem_of("ed25519")}"""
        key_files = "/a.pem, /b.pem"
        [token.required]
        client = "${{clientid}}"
        "realm_access.roles" = ["device", "gateway"]
        [token.client_attrs]
        tenant = "org.id"
        '''
    )
    settings = load({"COMPANION_CONFIG": str(path)}).settings
    assert len(settings.token_keys) == 2
    assert settings.token_key_files == (Path("/a.pem"), Path("/b.pem"))
    assert settings.token_client_attrs == {"tenant": "org.id"}
    assert settings.claim_tests("token_required") == (
        ClaimTest("client", ("${clientid}",)),
        ClaimTest("realm_access.roles", ("device", "gateway")),
    )
    assert settings.claim_tests("token_forbidden") == ()
