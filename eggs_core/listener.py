"""The socket that a server listens on."""

import errno
import socket

from eggs_core.errors import CannotListen


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, on which nobody listens yet. Raises `CannotListen`."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(f"Port {port} is taken. Stop what listens there, or take --port 0.") from error
        raise CannotListen(
            f"{host} with port {port} cannot be listened on ({error.strerror}). "
            "Take an address of this machine for --host, and a port that you may use."
        ) from error
    made.set_inheritable(True)
    return made
