"""What holds for all tests: no network, the same examples in every run, and a cache that is not the user's."""

import gc
import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine: what decides a run is the code alone. To look further, run
# `pytest --hypothesis-profile=search`.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("repeatable")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One base for all sessions on this machine: it is rebuilt when the code that makes it changes.
os.environ.setdefault("TUNEWELL_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "tunewell"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names cases of raw bytes by their argument: an id made of the bytes of a gzip file, which hold the time of day,
    differs between the workers of a parallel run, which then stops before its first test."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """Takes all that was imported so far out of the collector's sight: accelerate collects after every training, which
    with the modules of several hundred tests takes half a second each time."""
    gc.freeze()


# A shell starts background jobs deaf to Ctrl-C, and what they start inherits that: tests that press it would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = ("127.", "localhost", "::1")


class NetworkError(AssertionError):
    """A test reached for the network."""


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Refuse every connection that leaves this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise NetworkError(f"a test tried to connect to {address}: tests must not need the network")
        return connect(self, address)

    def guarded_look_up(host, *args, **kwargs):
        if host is not None and not str(host).startswith(LOOPBACK):
            raise NetworkError(f"a test tried to look up {host}: tests must not need the network")
        return look_up(host, *args, **kwargs)

    socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_look_up
    yield
    socket.socket.connect, socket.getaddrinfo = connect, look_up


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository, where there is some."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
