"""restic's stdin, when the agent writes it: an end that is told, and never comes by accident.

restic takes the end of its input for the end of the dump, and makes a snapshot of what it has. It
must not see one because the agent died. So its stdin is a socket, of which it is given the writing
end too: as long as restic itself holds that, no death of anybody ends the input, and restic waits
to be ended by the next agent. Only `finish` ends it: a shutdown reaches the socket, whoever holds
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

_FILLER = bytes(64 * 1024)


class Feed:
    """The input of one restic. Use it as a context, so that its ends are closed."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        # Of our end only: the other is read by a program that expects to wait.
        self._ours.setblocking(False)
        self.is_given_up = asyncio.Event()
        """restic is to end, or has ended: nothing more is wanted."""

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    @property
    def reading_end(self) -> int:
        return self._theirs.fileno()

    @property
    def writing_end(self) -> int:
        return self._ours.fileno()

    def hand_over(self) -> None:
        """Let go of the reading end, which is restic's alone from now on."""
        self._theirs.close()

    async def write(self, chunk: bytes) -> None:
        """Write, as fast as restic reads.

        Raises:
            OSError: restic is gone.
        """
        await asyncio.get_running_loop().sock_sendall(self._ours, chunk)

    def finish(self) -> None:
        """Tell restic that this was all of it."""
        with contextlib.suppress(OSError):  # It is gone; its exit says why.
            self._ours.shutdown(socket.SHUT_WR)

    def give_up(self) -> None:
        """Stop whoever writes. The end of the input is not told."""
        self.is_given_up.set()

    async def flood(self) -> None:
        """Write zeros until restic is gone.

        Since 0.17, restic that got SIGINT goes on with it only after the next few MiB of its input
        (tried with 0.18.0 and 0.19.1). It makes no snapshot of them, for they have no end.
        """
        with contextlib.suppress(OSError):
            while True:
                await self.write(_FILLER)
                await asyncio.sleep(0)
