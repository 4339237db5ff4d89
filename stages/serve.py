"""Serve the labeling app: ``steerline serve CONFIG``."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from labeling_ui.app import create_app
from labeling_ui.settings import AppSettings
from pipeline.config.label import AppSection, LabelSection
from pipeline.config.run import load_config
from pipeline.errors import ConfigError, RunError
from pipeline.labeling import open_store
from pipeline.serving import ModelServer
from pipeline.serving_messages import ServingSettings
from pipeline.store.accounts import Accounts
from pipeline.store.leasing import LeaseRules
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser

PATIENCE = 3
"""Seconds in which open requests may end when the app stops; Gradio's streams never would."""


def main(argv: Sequence[str]) -> None:
    """Run ``steerline serve`` until it is interrupted.

    Raises:
        SteerlineError: for wrong arguments, an unusable store, no lead, or an address in use.
    """
    given = _parse(argv)
    config = load_config(given.config, given.overrides)
    section = config.section("label", LabelSection).app
    settings = _settings(given, section)
    if not given.insecure:
        settings.check_exposure()
    _check_certificate(given.certificate, given.key)
    with (
        open_store(config, create=False) as store,
        _listen(settings) as door,
        ModelServer(_serving(section)) as models,
    ):
        if not Accounts(store).has_lead():
            raise RunError(
                f"No lead can sign in. Run 'steerline user add {given.config} NAME --role lead' "
                "first."
            )
        rules = LeaseRules(
            timedelta(minutes=section.lease_minutes),
            section.gold_rate,
            section.repeat_rate,
            config.seed,
        )
        make_app = functools.partial(
            create_app, store, settings, rules=rules, run_dir=config.run_dir, models=models
        )
        shown = settings.origin or _spell(settings, door)
        sys.stdout.write(
            f"Labeling app: {shown}/label, for leads {shown}/lab and {shown}/lab/compare. "
            "Ctrl-C ends it.\n"
        )
        sys.stdout.flush()
        _run(make_app, given, door)


def _run(make_app: Callable[..., FastAPI], given: Namespace, door: socket.socket) -> None:
    """Serve an app until it is interrupted, or turns out to be broken.

    Raises:
        RunError: if Gradio is not there or finds no room to work in.
        Exception: whatever else keeps the pages from being made.
    """
    errors: list[Exception] = []

    def end(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    server = _make_server(make_app(broken=end), given)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[door])
    if not errors:
        return
    if isinstance(errors[0], ImportError | OSError):
        raise RunError(
            f"Gradio cannot make its pages ({errors[0]}). See that it is installed, all of "
            "it, and can write to the temporary folder."
        ) from errors[0]
    raise errors[0]


def _settings(given: Namespace, section: AppSection) -> AppSettings:
    return AppSettings(
        host=given.host,
        port=given.port,
        https=given.certificate is not None,
        proxies=tuple(given.proxy),
        public_url=given.public_url,
        session=timedelta(hours=section.session_hours),
        goal=section.daily_goal,
    )


def _serving(section: AppSection) -> ServingSettings:
    """Return how much of the machine the models of the lab may take."""
    if section.models_memory_gb is None:
        return ServingSettings(threads=section.model_threads)
    return ServingSettings(int(section.models_memory_gb * 1e9), section.model_threads)


def _make_server(app: FastAPI, given: Namespace) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=given.certificate,
            ssl_keyfile=given.key,
            access_log=False,
            server_header=False,
            # The app itself believes the proxies that it was told of.
            proxy_headers=False,
            log_level="warning",
            timeout_graceful_shutdown=PATIENCE,
        )
    )


def _parse(argv: Sequence[str]) -> Namespace:
    parser = Parser("steerline serve", "Serve the labeling app.")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=7860, help="port (7860); 0 for a free one")
    parser.add_argument("--certificate", metavar="FILE", type=Path, help="PEM, to speak HTTPS")
    parser.add_argument("--key", metavar="FILE", type=Path, help="PEM of the certificate's key")
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="believe X-Forwarded-* from this address or network; more than once for more",
    )
    parser.add_argument(
        "--public-url", metavar="URL", help="by what address people reach it, behind a proxy"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="serve other machines without HTTPS"
    )
    return parser.parse_intermixed_args(argv)


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise ConfigError(
            f"--port must be a number from 0 to 65535, got {text!r}. Choose another port."
        )
    return port


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None:
        if key is not None:
            raise ConfigError("--key must come with --certificate. Give both.")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"--certificate and --key must be readable PEM files that belong together, got "
            f"{str(certificate)!r} ({reason}). Check both."
        ) from error


def _listen(settings: AppSettings) -> socket.socket:
    """Return a socket that listens, taken before anything slow begins."""
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"--host and --port must be free to listen on, got {host}:{port} ({reason}). "
            "Choose another port."
        ) from error


def _spell(settings: AppSettings, door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    scheme = "https" if settings.https else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
