"""Find a user's reward function by its import path, and the files that it is written in."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_text
from pipeline.errors import ConfigError, nearest


def load_function(path: str, where: str) -> Callable[..., Any]:
    """Import a function.

    The working folder is looked in as well, after everything that is installed.

    Args:
        path: ``module:name``.
        where: dotted path of the setting, for errors.

    Raises:
        ConfigError: if there is no such module, it raises when it is imported, or it has no such
            function.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        # It stays: the function may import its neighbours only when it is called.
        sys.path.append(here)
    name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"{where} must name a function in a module that can be imported, got {path!r} "
            f"({type(error).__name__}: {reason}). Check the path, or install the package."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        callables = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{where} must name a function of {name}, got {attribute!r}."
            f"{nearest(attribute, callables) if callables else ' It has none.'}"
        )
    called: Callable[..., Any] = function
    return called


def hash_function(path: str, where: str) -> str:
    """Hash the files of a function: its module's, and the one that it is written in.

    What those import is not in the hash.

    Raises:
        ConfigError: if the function cannot be imported, or no file holds it.
    """
    function = load_function(path, where)
    module = sys.modules[path.partition(":")[0]]
    written = inspect.unwrap(function)
    owner = written if inspect.isroutine(written) or inspect.isclass(written) else type(written)
    try:
        source = inspect.getsourcefile(owner)
    except TypeError:  # it is built in, or its type is
        source = None
    files = dict.fromkeys(filter(None, [getattr(module, "__file__", None), source]))
    found = [Path(file) for file in files if Path(file).is_file()]
    if not found:
        raise ConfigError(
            f"{where} must name a function that a file holds, so that a change of it is noticed, "
            f"got {path!r}. Write one that calls it."
        )
    return hash_text("".join(f"{file.name}\0{hash_file(file)}\n" for file in found))
