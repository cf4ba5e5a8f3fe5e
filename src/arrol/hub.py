"""Whether Hugging Face's hub can be reached, and what lies in its cache; asked before torch is imported.

Sample: without a network, ``cached_only("models", "Qwen/Qwen3-0.6B", "model = 'Qwen/Qwen3-0.6B'")`` is True where a
copy of the model lies in the cache, else it raises. With ``HF_HUB_OFFLINE`` the libraries read the cache by themselves.
"""

from __future__ import annotations

import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from arrol.errors import DataError, ModelError

LIMIT_S = 2.5
"""A hub that does not answer for so long cannot be reached."""
OFFLINE_KEYS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables with which the libraries read their caches alone."""

Kind = Literal["models", "datasets"]


def cached_only(kind: Kind, name: str, field: str) -> bool:
    """True where only a cached copy of ``owner/name`` can be read since the hub does not answer.

    Without a copy it raises ModelError or DataError; ``field`` begins the message.
    """
    is_offline = any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in OFFLINE_KEYS)
    if is_offline and kind == "models" and not any(_copies(kind, name)):
        raise ModelError(
            f"{field}: HF_HUB_OFFLINE is set, and no copy is cached; unset it, or give a folder with config.json"
        )
    if is_offline or hub_answers(endpoint()):
        return False
    if not any(_copies(kind, name)):
        remedy = (
            "give a folder with config.json"
            if kind == "models"
            else "give a local file or folder, with the task's preset for its columns"
        )
        error = ModelError if kind == "models" else DataError
        raise error(f"{field}: {endpoint()} does not answer, and no copy is cached; {remedy}")
    return True


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def is_model_name(source: str) -> bool:
    """True for ``owner/name`` of a model that is no path."""
    looks_local = source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source.split("/")[0]).is_dir()
    return not looks_local and not Path(source).is_dir()


@lru_cache(maxsize=4)
def hub_answers(address: str, limit_s: float = LIMIT_S) -> bool:
    """True when something answers at the address within the limit, also with an error."""
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=limit_s).close()
        except urllib.error.HTTPError:
            pass
        except OSError as error:
            if not (isinstance(error, urllib.error.URLError) and isinstance(error.reason, ssl.SSLError)):
                return
        answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit of its own
    thread.start()
    thread.join(limit_s)
    return bool(answers)


def _copies(kind: Kind, name: str) -> Iterator[Path]:
    """Files of a cached model or data set."""
    variables = os.environ
    home = Path(variables.get("HF_HOME") or Path(variables.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    hub = Path(variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE") or home / "hub").expanduser()
    wanted = "config.json" if kind == "models" else "*"
    yield from hub.glob(f"{kind}--{name.replace('/', '--')}/snapshots/*/{wanted}")
    if kind == "datasets":  # prepared tables lie under owner___snake_case
        tables = Path(variables.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
        key = _letters(name.replace("/", "___"))
        yield from (path for path in tables.glob("*___*/*/*/*") if _letters(path.parents[2].name) == key)


def _letters(name: str) -> str:
    return name.replace("_", "").lower()
