"""Who may reach a Dask cluster. Whoever reaches its ports can run code on all of its machines."""

import ipaddress
import logging
import socket

from cache.errors import ParamsError

LOG = logging.getLogger(__name__)
FLAG = "--scheduler"
ENCRYPTED = ("tls", "wss")
SETTINGS = ("TLS__CA_FILE", "TLS__CLIENT__CERT", "TLS__CLIENT__KEY")
PREFIX = "DASK_DISTRIBUTED__COMM__"
HOW = "docs/data.md says how"


def require_certificates(address: str) -> None:
    """Refuse an encrypted address for which Dask's settings name no certificate that can be read.

    Raises:
        ParamsError: names the settings, or what is wrong with a file.
    """
    if _scheme(address) not in ENCRYPTED:
        return
    from distributed.security import Security

    names = ", ".join(f"{PREFIX}{name}" for name in SETTINGS)
    fix = f"set {names} to the files of the certificate; {HOW}"
    try:
        has_one = Security().get_connection_args("client").get("ssl_context") is not None
    except (OSError, ValueError) as error:  # of ssl, too
        reason = error.strerror or error if isinstance(error, OSError) else error
        fact = f"{address} needs a certificate, and Dask's cannot be read ({reason})"
        raise ParamsError(FLAG, fact, fix) from error
    if not has_one:
        fact = f"{address} needs a certificate, and Dask's settings name none"
        raise ParamsError(FLAG, fact, fix)


def warn_if_open(*addresses: str) -> None:
    """Say that a scheduler can be reached from other machines without a certificate, if it can.

    Args:
        addresses: the one that was given, and the one at which the scheduler says it listens, which
            is another where it listens on all of a machine's.
    """
    for address in addresses:
        if _scheme(address) not in ENCRYPTED and not _is_loopback(address):
            LOG.warning(
                "the scheduler at %s is open: whoever reaches it can run code on every machine of"
                " the cluster. Use TLS, or a network that is closed to others; %s",
                address,
                HOW,
            )
            return


def _scheme(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    return scheme if separator else "tcp"


def _is_loopback(address: str) -> bool:
    """Whether an address leads to this machine alone; one that leads nowhere does as well."""
    from distributed.comm.addressing import get_address_host

    try:
        found = socket.getaddrinfo(get_address_host(address), None)
    except (OSError, ValueError):
        return True
    return all(ipaddress.ip_address(one[4][0]).is_loopback for one in found)
