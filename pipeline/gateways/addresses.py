"""Where webhooks may go: which URLs can be given, and which addresses a deployment allows.

Outlets are on private networks, so nothing is allowed that is not listed. Addresses that lead back to ourselves or to the machine
under us need an entry of their own: one for 0.0.0.0/0 does not open the loopback.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pipeline.errors import Refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network, unspecified
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; most clouds' metadata is 169.254.169.254
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # metadata of Azure
        "192.0.0.0/24",  # IETF protocol assignments, metadata of Oracle
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/96",  # unspecified, loopback, IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "64:ff9b::/96",  # IPv4 behind NAT64
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "fd00:ec2::254/128",  # metadata of AWS
    )
)
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAX_NAME = 253
"""The longest name that can be asked for (RFC 1035 2.3.4); a label of it has 63 characters at most."""
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]{{2,45}}\]|{_LABEL}(?:\.{_LABEL})*)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<target>/[!-\"$-~]*)?"
)
_WEB_PORTS = (80, 443)
_SYSTEM_PORTS = range(1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A webhook's URL in its parts; `host` without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Target:
    """Read a webhook's URL: http(s), no user, no fragment, ASCII; port 80, 443, or one that is not a system service's.

    Raises:
        Refused: `url-not-allowed`, with what is wrong.
    """
    found = _URL.fullmatch(url)
    if found is None or len(url) > 2000:
        raise refused_url(
            "须为 http(s)://主机[:端口]/路径，不含用户名与片段，国际化域名请用 punycode",
            "it must be http(s)://host[:port]/path without user or fragment; write other scripts' names in punycode",
        )
    scheme, host = found["scheme"], found["host"].strip("[]").lower()
    if len(host) > _MAX_NAME or (found["host"].startswith("[") and not _is_ipv6(host)):
        raise refused_url(
            "主机须为域名或 IP 地址，IPv6 地址写在方括号内", "the host must be a name or an address, IPv6 in brackets"
        )
    port = int(found["port"] or (443 if scheme == "https" else 80))
    if not 0 < port < 65536 or (port in _SYSTEM_PORTS and port not in _WEB_PORTS):
        raise refused_url("端口须为 80、443 或 1024 至 65535", "the port must be 80, 443, or 1024 to 65535")
    return Target(scheme=scheme, host=host, port=port, target=found["target"] or "/")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def refused_url(zh: str, en: str) -> Refused:
    return Refused(f"网址不可用：{zh}", f"this URL cannot be used: {en}", code="url-not-allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """The networks webhooks may reach, and those of them that may be reached without TLS."""

    allow: tuple[Network, ...] = ()
    plain_http: tuple[Network, ...] = ()

    def admits(self, address: Address, *, scheme: str) -> bool:
        """Whether an attempt may go to this address."""
        return _listed(address, self.allow) and (scheme == "https" or _listed(address, self.plain_http))

    def refuse(self, addresses: Sequence[str], *, scheme: str) -> None:
        """Accept a name's addresses only if every one is allowed: with one that is not, somebody is trying something.

        Raises:
            Refused: `url-not-allowed`, naming the address.
        """
        for text in addresses:
            address = ip_address(text)
            if not self.admits(address, scheme=scheme):
                tls = scheme == "http" and _listed(address, self.allow)
                raise refused_url(
                    f"该地址须用 https：{text}；如确需明文，请列入 ZHIKA_WEBHOOKS__PLAIN_HTTP"
                    if tls
                    else f"地址 {text} 不在 ZHIKA_WEBHOOKS__ALLOW 中",
                    f"{text} needs https, or an entry in ZHIKA_WEBHOOKS__PLAIN_HTTP"
                    if tls
                    else f"address {text} is not in ZHIKA_WEBHOOKS__ALLOW",
                )


def _listed(address: Address, networks: Sequence[Network]) -> bool:
    special = next((network for network in _SPECIAL if address in network), None)
    return any(address in network and (special is None or _within(network, special)) for network in networks)


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def resolve(host: str, port: int) -> tuple[str, ...]:
    """Every address of a name, in the order the system prefers; a literal address is its own.

    Raises:
        OSError: it has none, or nobody could be asked.
    """
    try:
        return (str(ip_address(host)),)
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
