"""Ports on loopback for the tests' servers."""

import contextlib
import random
import socket

# Below those that the system gives to outgoing connections: none of these takes a server's port before it is started,
# or while it is down.
FIRST, LAST = 20_000, 32_000


def free_ports(count: int) -> list[int]:
    """Different ports that nobody uses now."""
    # Not `random` itself: what one test seeds, another process may have seeded as well.
    candidates = random.SystemRandom().sample(range(FIRST, LAST), 1000)
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # somebody has it
                probe.bind(("127.0.0.1", port := candidates.pop()))
                found.append(port)
    return found
