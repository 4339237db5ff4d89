from __future__ import annotations

import pytest

from labeling_ui.settings import AppSettings, spell_origin, split_host
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "127.9.9.9"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"host": "label.example.org"}, False),
        ({"host": "0.0.0.0", "https": True}, True),
        ({"host": "0.0.0.0", "proxies": ("192.0.2.9",)}, True),
        ({"host": "0.0.0.0", "public_url": "https://label.example.org"}, False),
    ],
)
def test_other_machines_need_https_or_a_proxy(given: dict, served: bool) -> None:
    settings = AppSettings(**given)
    if served:
        settings.check_exposure()
        return
    with pytest.raises(ConfigError, match="--insecure sends passwords in the clear") as caught:
        settings.check_exposure()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"host": "127.0.0.2"}, {"localhost", "127.0.0.1", "[::1]", "127.0.0.2"}),
        ({"public_url": "https://Label.example.org:8443/"}, {"label.example.org"}),
        ({"proxies": ("192.0.2.9",)}, None),
        ({"host": "0.0.0.0", "https": True}, None),
    ],
)
def test_the_names_that_requests_may_have(given: dict, names: set[str] | None) -> None:
    found = AppSettings(**given).names
    assert found == (None if names is None else frozenset(names))


@pytest.mark.parametrize(
    "url",
    [
        "label.example.org",
        "ftp://label.example.org",
        "https://",
        "https://label.example.org/app",
        "https://label.example.org?x=1",
        "https://user@label.example.org",
        "https://label.example.org:99999",
        "https://label.example.org:x",
        "https://[::1",
    ],
)
def test_a_public_url_that_is_more_or_less_than_an_origin_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--public-url must be scheme, host and port alone"):
        AppSettings(public_url=url)


@pytest.mark.parametrize("proxy", ["proxy.example.org", "10.0.0.0/33", "", "*"])
def test_a_proxy_that_is_no_address_is_refused(proxy: str) -> None:
    with pytest.raises(ConfigError, match="--proxy must be an address or a network"):
        AppSettings(proxies=(proxy,))


def test_a_network_of_proxies_may_be_named_by_any_of_its_addresses() -> None:
    assert str(AppSettings(proxies=("10.1.2.3/8",)).networks[0]) == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("host", "split"),
    [
        ("Label.Example", ("label.example", "")),
        ("a:80", ("a", "80")),
        ("[::1]", ("[::1]", "")),
        ("[::1]:7860", ("[::1]", "7860")),
        ("", ("", "")),
    ],
)
def test_a_host_is_split(host: str, split: tuple[str, str]) -> None:
    assert split_host(host) == split


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("https", "A.example", "https://a.example"),
        ("https", "a.example:443", "https://a.example"),
        ("http", "a.example:80", "http://a.example"),
        ("http", "a.example:443", "http://a.example:443"),
        ("http", "[::1]:7860", "http://[::1]:7860"),
    ],
)
def test_an_origin_is_spelt_as_browsers_do(scheme: str, host: str, origin: str) -> None:
    assert spell_origin(scheme, host) == origin
    assert AppSettings(public_url=f"{scheme}://{host}").origin == origin
