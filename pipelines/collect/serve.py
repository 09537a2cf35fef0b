"""The server of the feedback page: where it listens, and how it says so."""

import socket
from collections.abc import Callable

import uvicorn

from ...toolkit.errors import RunError, SettingsError
from .app import Page
from .store import Store

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(store: Store, host: str, port: int, say: Callable[[str], None], names: tuple[str, ...] = ()) -> None:
    """Serve the page until interrupted.

    Args:
        store: the study.
        host: address to listen at; anything but loopback asks for a key at the door.
        port: 0 takes a free one.
        say: gets the links.
        names: further names by which the page may be reached, as behind a proxy.

    Raises:
        RunError: the address cannot be listened at.
        SettingsError: no such address.
    """
    is_local = host in LOOPBACK and not names
    listener = _listen(host, port)
    reached = [] if is_local else [host, *names, *_own_names()]
    page = Page(store, tuple(reached))
    shown = f"[{host}]" if ":" in host else host
    shown = names[0] if names else ("127.0.0.1" if host in ("0.0.0.0", "::") else shown)
    address = f"http://{shown}:{listener.getsockname()[1]}"
    say(f"to label:    {address}{page.labelers_path()}")
    say(f"the results: {address}{page.owner_path()}  (for you alone)")
    if not is_local:
        say("Reachable from other machines, and not encrypted: use a network you trust, or an HTTPS proxy before it.")
    config = uvicorn.Config(page.app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingsError([f"--host: got {host!r}, wanted an address of this machine"], "the command line") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise RunError(
            f"cannot listen at {host} port {port}: {error.strerror}. Another page may be open there: give --port 0"
        ) from error
    return listener


def _own_names() -> list[str]:
    """Names and addresses of this machine, by which other machines reach a page that listens everywhere."""
    name = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        found = set()
    return [name, *(f"[{one}]" if ":" in one else one for one in sorted(found))]
