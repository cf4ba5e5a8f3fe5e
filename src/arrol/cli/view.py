"""``arrol view``: the rollouts of runs as a page on this machine."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Sequence

from rich.console import Console

from arrol.errors import ConfigError
from arrol.reports.viewer.server import HOST, Library, viewer_server


def run_view(paths: Sequence[str], *, port: int | None, browser: bool, as_json: bool) -> int:
    """Serve until Ctrl-C."""
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"--port = {port}: must be from 0 to 65535; 0 takes any that is free")
    library = Library(paths)
    console = Console(stderr=as_json, markup=False, highlight=False)
    with viewer_server(library, port) as server:
        url = f"http://{HOST}:{server.server_address[1]}/"
        count = len(library.feeds())
        if as_json:
            print(json.dumps({"url": url, "runs": count}), flush=True)
        console.print(f"viewer: {url} shows {count} run{'s' * (count != 1)}; Ctrl-C ends it", soft_wrap=True)
        if browser:
            webbrowser.open(url)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            console.print("viewer: ended")
    return 0
