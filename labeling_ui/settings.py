"""Say where the app listens, by what address people reach it, and what it accepts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from pipeline.errors import ConfigError

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class AppSettings:
    """How the app meets the network.

    Attributes:
        host: the address it listens on.
        port: the port; 0 for any free one.
        https: whether it speaks TLS itself.
        proxies: addresses or networks whose ``X-Forwarded-*`` headers are believed.
        public_url: by what address people reach it, ``https://label.example.org``; None for the
            one of each request.
        session: how long a sign-in lasts.
        goal: tasks a day that the board counts towards; None for no goal.
        page_bytes: largest body of a form.
        desk_bytes: largest body of the board's requests: a draft of 256 KiB and its envelope.
        lab_bytes: largest body of the lead's requests: an import.

    Raises:
        ConfigError: if a proxy is no address, or ``public_url`` more than scheme, host and port.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    https: bool = False
    proxies: tuple[str, ...] = ()
    public_url: str | None = None
    session: timedelta = timedelta(hours=12)
    goal: int | None = None
    page_bytes: int = 16 * 1024
    desk_bytes: int = 260 * 1024
    lab_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for proxy in self.proxies:
            _read_network(proxy)
        if self.public_url is not None:
            _check_url(self.public_url)

    @property
    def origin(self) -> str | None:
        """Return ``public_url`` as browsers spell an origin, or None."""
        if self.public_url is None:
            return None
        url = urlsplit(self.public_url)
        return spell_origin(url.scheme, url.netloc)

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Return ``proxies`` parsed."""
        return tuple(map(_read_network, self.proxies))

    @property
    def names(self) -> frozenset[str] | None:
        """Return the names that a request's Host may have, without port; None for any.

        Where nothing but this machine is to reach the app, other names come of a page elsewhere
        that has its own name resolve to this machine (DNS rebinding).
        """
        if self.public_url is not None:
            return frozenset({split_host(urlsplit(self.public_url).netloc)[0]})
        if self.is_local and not self.proxies:
            return frozenset(LOCAL_NAMES) | {self.host}
        return None

    @property
    def is_local(self) -> bool:
        """Tell whether the app listens to its own machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_exposure(self) -> None:
        """Refuse to send passwords over a network in the clear.

        Raises:
            ConfigError: if other machines reach the app without HTTPS or a trusted proxy.
        """
        if not (self.is_local or self.https or self.proxies):
            raise ConfigError(
                f"--host must be of this machine (127.0.0.1) without HTTPS, got {self.host!r}. Give"
                " --certificate and --key, or --proxy with a proxy that speaks HTTPS; --insecure "
                "sends passwords in the clear."
            )


def split_host(host: str) -> tuple[str, str]:
    """Return the name and the port of a Host header, lower case; the port may be empty."""
    name, colon, port = host.lower().rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host.lower(), "")


def spell_origin(scheme: str, host: str) -> str:
    """Return an origin as browsers spell it: lower case, without the scheme's own port."""
    name, port = split_host(host)
    usual = {"http": "80", "https": "443"}.get(scheme, "")
    return f"{scheme}://{name}" if port in ("", usual) else f"{scheme}://{name}:{port}"


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"--proxy must be an address or a network (10.0.0.0/8), got {text!r}. Mend it."
        ) from error


def _check_url(text: str) -> None:
    try:
        url = urlsplit(text)
        plain = url.path in ("", "/") and not (url.query or url.fragment or url.username)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        plain = valid = False
    if not (plain and valid):
        raise ConfigError(
            "--public-url must be scheme, host and port alone (https://label.example.org), got "
            f"{text!r}. Mend it."
        )
