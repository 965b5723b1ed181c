"""Runs a command in a network of its own, whose only way out is a proxy.

    unshare -n python -m tests.fakes.walled_in DOOR PORT COMMAND...

In there nothing can be reached but 127.0.0.1:PORT, and what is sent to that comes out at DOOR, a
Unix socket in the world outside: `open_door` leads from there to the proxy.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Connect = Callable[[], socket.socket]

_SIOCSIFFLAGS = 0x8914  # Linux, netdevice(7)
_IFF_UP = 0x1


@contextmanager
def open_door(path: Path, port: int) -> Iterator[None]:
    """Lead whoever comes to a Unix socket to a port of this machine."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        _relay_forever(door, lambda: socket.create_connection(("127.0.0.1", port)))
        yield


def _relay_forever(listener: socket.socket, connect: Connect) -> None:
    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                threading.Thread(target=_carry, args=(near, connect), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def _carry(near: socket.socket, connect: Connect) -> None:
    with near, contextlib.suppress(OSError), connect() as far:
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(begin: socket.socket, end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := begin.recv(65536):
            end.sendall(chunk)
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)


def _connect_to_door(path: str) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.connect(path)
    return door


def _bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def main() -> int:
    door, port, *command = sys.argv[1:]
    _bring_loopback_up()
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        _relay_forever(listener, lambda: _connect_to_door(door))
        with subprocess.Popen(command) as process:
            signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
            return process.wait()


if __name__ == "__main__":
    sys.exit(main())
