"""Where webhooks may go: what a URL may be, and which addresses are allowed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from pipeline.errors import Refused
from pipeline.gateways.addresses import AllowList, parse_url


def allowing(*networks: str, plain: tuple[str, ...] = ()) -> AllowList:
    return AllowList(allow=tuple(map(ip_network, networks)), plain_http=tuple(map(ip_network, plain)))


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("https://outlet.example/hook", "outlet.example", 443, "/hook"),
        ("http://10.0.0.7", "10.0.0.7", 80, "/"),
        ("https://Outlet.Example:8443/a/b?token=x%20y", "outlet.example", 8443, "/a/b?token=x%20y"),
        ("https://[fd12::1]:9000/", "fd12::1", 9000, "/"),
    ],
)
def test_a_url_is_read_in_its_parts(url: str, host: str, port: int, target: str) -> None:
    read = parse_url(url)
    assert (read.host, read.port, read.target) == (host, port, target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://outlet.example/",
        "file:///etc/passwd",
        "https://user:secret@outlet.example/",
        "https://outlet.example#@evil.example/",
        "https://outlet.example/#part",
        "https://outlet.example\\@evil.example/",
        "https://outlet.example:22/",
        "https://outlet.example:0/",
        "https://outlet.example:65536/",
        "https://outlet.example:/",
        "https://网点.example/",
        "https://outlet.example/a b",
        "https://outlet.example/a\r\nX: y",
        "https:///hook",
        "https://outlet.example?x",
        "https://-outlet.example/",
        "https://outlet.example/" + "a" * 2000,
        "http://a..b/x",
        "http://a.-b/x",
        f"http://{'a' * 70}.example/x",
        "http://" + "a." * 127 + "example/x",
        "http://[1:2]/",
        "http://[::::]/",
        "http://[10.0.0.1]/",
    ],
)
def test_a_url_that_could_mislead_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_url(url)
    assert refused.value.reason_code == "url-not-allowed"


@pytest.mark.parametrize(
    ("address", "networks", "fine"),
    [
        ("10.20.1.1", ("10.20.0.0/16",), True),
        ("10.21.1.1", ("10.20.0.0/16",), False),
        ("8.8.8.8", (), False),
        ("8.8.8.8", ("0.0.0.0/0",), True),
        ("fd12::5", ("fd12::/48",), True),
        ("127.0.0.1", ("0.0.0.0/0",), False),
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("127.0.0.1", ("127.0.0.1/32",), True),
        ("::1", ("::/0",), False),
        ("::1", ("::1/128",), True),
        ("169.254.169.254", ("0.0.0.0/0",), False),
        ("169.254.169.254", ("169.254.169.254/32",), True),
        ("100.100.100.200", ("100.64.0.0/10",), False),
        ("100.100.100.201", ("100.64.0.0/10",), True),
        ("fd00:ec2::254", ("fd00::/8",), False),
        ("224.0.0.1", ("0.0.0.0/0",), False),
        ("255.255.255.255", ("0.0.0.0/0",), False),
        ("0.0.0.0", ("0.0.0.0/0",), False),
        ("::", ("::/0",), False),
        ("fe80::1%eth0", ("::/0",), False),
        ("::ffff:10.20.1.1", ("10.20.0.0/16",), False),
        ("::ffff:10.20.1.1", ("::/0",), False),
        ("::ffff:10.20.1.1", ("::ffff:0:0/96",), True),
        ("64:ff9b::7f00:1", ("::/0",), False),
        ("2002:7f00:1::", ("::/0",), False),
    ],
)
def test_only_listed_addresses_are_allowed_and_special_ones_by_an_entry_of_their_own(
    address: str, networks: tuple[str, ...], fine: bool
) -> None:
    assert allowing(*networks).admits(ip_address(address), scheme="https") is fine


def test_without_tls_an_address_must_be_listed_twice() -> None:
    allowed = allowing("10.0.0.0/8", plain=("10.1.0.0/16",))
    allowed.refuse(["10.1.0.1"], scheme="http")
    allowed.refuse(["10.2.0.1"], scheme="https")
    with pytest.raises(Refused, match="needs https"):
        allowed.refuse(["10.2.0.1"], scheme="http")
    with pytest.raises(Refused, match="not in ZHIKA_WEBHOOKS__ALLOW"):
        allowing(plain=("10.1.0.0/16",)).refuse(["10.1.0.1"], scheme="http")


def test_a_name_with_one_address_that_is_not_allowed_is_refused_whatever_the_others_are() -> None:
    with pytest.raises(Refused, match=r"192\.168\.0\.1"):
        allowing("10.0.0.0/8").refuse(["10.1.0.1", "192.168.0.1"], scheme="https")
