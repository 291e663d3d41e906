"""Which addresses the service calls for strangers: public ones, whatever name or notation leads there.

Who asks for a name gets addresses that were checked, and must connect to those: asked again, the name may lead
elsewhere.
"""

import socket
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from anyio import CapacityLimiter, fail_after, to_thread

_SECONDS = 5
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Public by their form alone, or by what some versions of Python know of them.
_NEARER = (
    IPv4Network("168.63.129.16/32"),  # on machines in Azure it is the host's
    IPv4Network("192.0.0.0/24"),  # for protocols between neighbours
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
)


class AddressRefused(Exception):
    """The host has no address, or one that is not public. Does not say which: that is nothing for strangers."""

    def __init__(self) -> None:
        super().__init__("The host has no address, or one that is private.")


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host, each of which may be called. Raises `AddressRefused`."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefused from None
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if not allow_private and not all(is_public(ip_address(address)) for address in addresses):
        raise AddressRefused
    return addresses


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether this is an address in the Internet, and nowhere nearer."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _NEARER)
    if (inner := _inner(address)) is not None:
        return is_public(inner)
    return address in _GLOBAL_UNICAST and address.is_global


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that such packets end up at."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


async def check(host: str, port: int, *, allow_private: bool, limiter: CapacityLimiter) -> None:
    """Raises `AddressRefused` where `resolve` does, or takes long."""
    try:
        with fail_after(_SECONDS):
            await to_thread.run_sync(
                partial(resolve, host, port, allow_private=allow_private), limiter=limiter, abandon_on_cancel=True
            )
    except TimeoutError:
        raise AddressRefused from None
