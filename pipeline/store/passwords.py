"""Hash passwords with scrypt, compare them, and make those that are printed for somebody.

A stored password names its own parameters, so that they can be raised later:
``scrypt$N$r$p$salt$key``, salt and key in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata

from pipeline.errors import StoreError

# 32 MiB and, on one core of 2023, some 0.1 s each: what makes guessing dear (RFC 7914).
COST, BLOCK, PARALLEL = 2**15, 8, 1
SALT_BYTES = 16
KEY_BYTES = 32
LENGTHS = range(12, 201)
# Without what is misread: 0 and o, 1, i and l.
ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
GROUPS, GROUP = 4, 5


def hash_password(password: str) -> str:
    """Return the salted hash of a password, as it is stored."""
    salt = secrets.token_bytes(SALT_BYTES)
    return _format(salt, _derive(password, salt, COST, BLOCK, PARALLEL))


def matches(password: str, stored: str | None) -> bool:
    """Tell whether a password is the stored one.

    Without a stored one, for a name that nobody has, the same work is done for nothing: the time
    that an answer takes tells nothing of who exists.
    """
    kind, cost, block, parallel, salt, key = (stored or _nobodys()).split("$")
    assert kind == "scrypt", f"unknown hash {kind!r}"
    derived = _derive(password, base64.b64decode(salt), int(cost), int(block), int(parallel))
    same = hmac.compare_digest(derived, base64.b64decode(key))
    return same and stored is not None


def one_time_password() -> str:
    """Make a password to be read out or copied by hand; 99 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(GROUP)) for _ in range(GROUPS))
    return "-".join(groups)


def check_password(password: str, name: str) -> None:
    """Refuse a password that is too short, too long, or the account's own name.

    Raises:
        StoreError: naming the rule, and never the password.
    """
    if len(password) not in LENGTHS:
        raise StoreError(
            f"The password must have {LENGTHS[0]} to {LENGTHS[-1]} characters, got "
            f"{len(password)}. Choose another one."
        )
    if len(set(password)) < 4 or password.casefold().strip() == name.casefold().strip():
        raise StoreError(
            "The password must be neither the name nor a repeated letter. Choose another one."
        )


def _nobodys() -> str:
    salt, key = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(KEY_BYTES)
    return _format(salt, key)


def _format(salt: bytes, key: bytes) -> str:
    shown = (base64.b64encode(part).decode() for part in (salt, key))
    return "$".join(("scrypt", str(COST), str(BLOCK), str(PARALLEL), *shown))


def _derive(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    # The same password typed on another keyboard may be composed otherwise.
    text = unicodedata.normalize("NFKC", password)
    return hashlib.scrypt(
        text.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost,
        r=block,
        p=parallel,
        maxmem=256 * cost * block,
        dklen=KEY_BYTES,
    )
