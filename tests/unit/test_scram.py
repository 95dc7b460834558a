"""SCRAM: what is kept of a password, by the vector of the standard, and keys of nobody."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode

import pytest

from companion.core.errors import Invalid
from companion.core.scram import Algorithm, ScramKeys, keys_in, keys_of_nobody, scram_keys


def test_the_vector_of_the_standard() -> None:
    """RFC 7677 §3: the client's proof is that of these keys, and so is the server's signature."""
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    keys = scram_keys("pencil", "sha256", 4096, b64decode(salt))
    signature = hmac.digest(keys.stored_key, message, "sha256")
    proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == keys.stored_key
    server = b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert hmac.digest(keys.server_key, message, "sha256") == server


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_as_text(algorithm: Algorithm) -> None:
    """What is written is read back; every password has a salt of its own, and nothing shows the keys."""
    keys = scram_keys("secret", algorithm, 4096)
    assert keys_in(str(keys)) == keys
    assert scram_keys("secret", algorithm, 4096) != keys
    assert scram_keys("secret", algorithm, 4096, keys.salt) == keys
    assert scram_keys("other", algorithm, 4096, keys.salt) != keys
    assert keys.stored_key.hex() not in repr(keys)
    for spoilt in (
        "",
        str(keys)[1:],
        f"{keys}x",
        str(keys).replace("$", ":"),
        str(keys).replace("SHA", "MD5"),
        f"{keys}\n",
    ):
        assert keys_in(spoilt) is None
    assert keys_in("SCRAM-SHA-256$4096:c2FsdA==$c2hvcnQ=:c2hvcnQ=") is None


def test_passwords_are_prepared() -> None:
    """RFC 4013: what looks the same is the same, and what nobody can type the same way is refused."""
    salt = b"salt"
    assert scram_keys("I\u00adX", "sha256", 4096, salt) == scram_keys("IX", "sha256", 4096, salt)
    assert scram_keys("\u2168", "sha256", 4096, salt) == scram_keys("IX", "sha256", 4096, salt)
    assert scram_keys("a\u00a0b", "sha256", 4096, salt) == scram_keys("a b", "sha256", 4096, salt)
    assert scram_keys("\u0627\u0628", "sha256", 4096, salt).salt == salt
    for bad in ("", "\u00ad", "\u0007", "\u0627\u0031", "a\ud800", "\ufdd0"):
        with pytest.raises(Invalid, match="password"):
            scram_keys(bad, "sha256", 4096, salt)


def test_keys_of_nobody() -> None:
    """They have the form of real ones, are the same each time, and others for another name or another deployment."""
    made = [keys_of_nobody(name, key, "sha512", 4096) for name in ("alice", "bob") for key in ("k1", "k2")]
    assert made == [keys_of_nobody(name, key, "sha512", 4096) for name in ("alice", "bob") for key in ("k1", "k2")]
    assert len({(one.salt, one.stored_key, one.server_key) for one in made}) == 4
    real = scram_keys("secret", "sha512", 4096)

    def sizes(keys: ScramKeys) -> tuple[int, int, int]:
        return len(keys.salt), len(keys.stored_key), len(keys.server_key)

    assert {sizes(one) for one in made} == {sizes(real)}
