"""What single lines of each format mean, beyond the samples, and what is left over of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from carpd.config import ifconfig
from carpd.config.edits import edited
from carpd.migration.found import MigrationError
from tests.migration.reading import left, notes, only_host, read

CARP = "vhid 1 carpdev em1 192.0.2.1/24\n"


def rc(more: str = "") -> str:
    return f'ifconfig_em1_alias0="inet vhid 1 {more} alias 192.0.2.1/32"\n'


def vrrp(more: str = "", begin: str = "{") -> str:
    """An instance, with this in line 5."""
    address = "virtual_ipaddress { 192.0.2.1/24 }"
    return f"vrrp_instance A {begin}\ninterface eth1\nvirtual_router_id 1\n{address}\n{more}\n}}\n"


def ucarp(more: str = "") -> str:
    return f"ucarp -i eth1 -v 1 -p secret -a 192.0.2.1 {more}\n"


def sync(more: str = "") -> str:
    """With this in line 5."""
    return f"Sync {{ UDP {{ Interface eth3\nIPv4_address 10.0.0.1\nIPv4_Destination_Address 10.0.0.2\n}}\n{more}\n}}\n"


def filters(more: str) -> str:
    """With this in line 8."""
    return f"{sync()}General {{ Filter From Userspace {{\n{more}\n}} }}\n"


TAKEN: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    # OpenBSD
    "netmask": (("openbsd", "inet 192.0.2.1 255.255.255.0 192.0.2.255"), {"addresses": ["192.0.2.1/24"]}),
    "hexadecimal netmask": (("openbsd", "inet 192.0.2.1 0xfffffff0 NONE"), {"addresses": ["192.0.2.1/28"]}),
    "word netmask": (("openbsd", "192.0.2.1 netmask 255.255.0.0"), {"addresses": ["192.0.2.1/16"]}),
    "no netmask": (("openbsd", "inet alias 192.0.2.1"), {"addresses": ["192.0.2.1"]}),
    "prefixlen": (("openbsd", "inet6 alias 2001:db8::1 prefixlen 64"), {"addresses": ["2001:db8::1/64"]}),
    "length": (("openbsd", "inet6 2001:db8::1 48"), {"addresses": ["2001:db8::1/48"]}),
    "zone": (("openbsd", "inet6 fe80::1%carp0 64"), {"addresses": ["fe80::1/64"]}),
    "twice": (("openbsd", "192.0.2.1/24\n192.0.2.1/24"), {"addresses": ["192.0.2.1/24"]}),
    "nodes": (
        ("openbsd", "carpnodes 3:0,4:100 balancing ip-stealth"),
        {"nodes": {"3": 0, "4": 100}, "balancing": "ip-stealth"},
    ),
    "one node": (("openbsd", "carpnodes 3:50 balancing none"), {"vhid": 3, "advskew": 50}),
    "unicast": (
        ("openbsd", "192.0.2.1/24 carppeer 192.0.2.3"),
        {"addresses": ["192.0.2.1/24"], "peers": ["192.0.2.3"], "multicast": False},
    ),
    "unicast of one family": (
        ("openbsd", "192.0.2.1/24 2001:db8::1/64 carppeer 192.0.2.3"),
        {"addresses": ["192.0.2.1/24", "2001:db8::1/64"], "peers": ["192.0.2.3"]},
    ),
    "group": (("openbsd", "-group carp group edge"), {"group": "edge"}),
    "no group any more": (("openbsd", "group edge\n-group other\n-group edge"), {"group": None}),
    "down": (("openbsd", "down"), {"up": False}),
    "multicast again": (
        ("openbsd", "192.0.2.1/24 carppeer 192.0.2.3\n-carppeer"),
        {"peers": None, "multicast": None},
    ),
    "quotes": (("openbsd", "pass 'a b' advskew 1 # advskew 2"), {"password": "a b", "advskew": 1}),
    "no comment": (("openbsd", 'pass "a#b"'), {"password": "a#b"}),
    "continued": (("openbsd", "advskew \\\n 7"), {"advskew": 7}),
    # FreeBSD
    "words of FreeBSD": (
        ("freebsd", rc("advbase 2 advskew 3 pass x")),
        {"advbase": 2, "advskew": 3, "password": "x"},
    ),
    "peers of FreeBSD": (("freebsd", rc("peer 192.0.2.3")), {"peers": ["192.0.2.3"], "multicast": False}),
    "multicast of FreeBSD": (("freebsd", rc("peer 192.0.2.3 mcast")), {"peers": None, "multicast": None}),
    "multicast of the other family": (("freebsd", rc("peer 192.0.2.3 mcast6")), {"peers": ["192.0.2.3"]}),
    "link-local": (
        ("freebsd", 'ifconfig_em1_ipv6="inet6 vhid 1 fe80::1%em1 prefixlen 64"'),
        {"addresses": ["fe80::1/64"], "digest_link_local": True},
    ),
    "two lines of one vhid": (
        ("freebsd", rc("advskew 3") + 'ifconfig_em1_alias1="inet vhid 1 192.0.2.9/32"'),
        {"advskew": 3, "addresses": ["192.0.2.1/32", "192.0.2.9/32"]},
    ),
    # ucarp
    "short options": (("ucarp", ucarp("-Pk5 -b 2")), {"preempt": True, "advskew": 5, "advbase": 2}),
    "long options": (("ucarp", ucarp("--preempt --advskew=5")), {"preempt": True, "advskew": 5}),
    "advskew 255": (("ucarp", ucarp("-k 255")), {"advskew": 254}),
    "start-stop-daemon": (
        ("ucarp", f"start-stop-daemon --exec /usr/sbin/ucarp -b -- {ucarp('-k 5').removeprefix('ucarp ')}"),
        {"vhid": 1, "advskew": 5},
    ),
    "output": (("ucarp", ucarp("2>&1 -k 5 >/dev/null </dev/null &")), {"advskew": 5}),
    "sudo": (("ucarp", f"sudo -E /usr/sbin/{ucarp('-k 5')}"), {"advskew": 5}),
    # keepalived
    "priority": (("keepalived", vrrp("priority 100")), {"advskew": 155, "preempt": True, "mac": "real"}),
    "highest priority": (("keepalived", vrrp("priority 255")), {"advskew": 0}),
    "lowest priority": (("keepalived", vrrp("priority 1")), {"advskew": 254}),
    "nopreempt": (("keepalived", vrrp("nopreempt")), {"preempt": False}),
    "vmac": (("keepalived", vrrp("use_vmac vrrp.51")), {"mac": "virtual"}),
    "seconds": (("keepalived", vrrp("advert_int 2.5")), {"advbase": 3}),
    "less than a second": (("keepalived", vrrp("advert_int 0.01")), {"advbase": 1}),
    "dev": (("keepalived", vrrp("virtual_ipaddress { 192.0.2.9 dev eth1 }")), {"interface": "eth1"}),
    "brace on the next line": (("keepalived", vrrp(begin="\n{")), {"vhid": 1}),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    text, expected = TAKEN[name]
    found = read(text)
    values = only_host(found)
    assert {key: values.get(key) for key in expected} == expected
    assert left(found) == []


LEFT: dict[str, tuple[tuple[str, str], list[str]]] = {
    # what nobody knows
    "OpenBSD word": (("openbsd", CARP + "rdomain 3 advskew 1"), ["2: rdomain 3: unknown word"]),
    "FreeBSD word": (("freebsd", rc("carpver 3 vrrpprio 100")), ["1: carpver 3 vrrpprio 100: unknown word"]),
    "keepalived keyword": (("keepalived", vrrp("xyzzy 1")), ["5: xyzzy 1: is no keyword that import knows"]),
    "keepalived block": (("keepalived", "xyzzy 1 {\n a { b } }"), ["1: xyzzy 1 {…}: nothing of VRRP"]),
    "block without a name": (("keepalived", "{ a }"), ["1: {…}: nothing of VRRP"]),
    "conntrackd keyword": (("conntrackd", sync("Xyzzy on")), ["5: Xyzzy on: there is no such setting"]),
    "conntrackd filter": (("conntrackd", filters("Xyzzy on")), ["8: Xyzzy on: there is no such filter"]),
    "conntrackd channel": (
        ("conntrackd", "Sync { Multicast { Interface eth3\nXyzzy 1\n} }"),
        ["2: Xyzzy 1: there is no such setting"],
    ),
    "rc.conf": (
        ("freebsd", 'hostname=a\nifconfig_em1="DHCP"\nhostname=b'),
        ["1: other settings: nothing of CARP or pfsync: hostname, ifconfig_em1"],
    ),
    "rc.conf, no setting": (("freebsd", "xyzzy"), ["1: xyzzy: is no NAME=VALUE"]),
    "rc.conf, pfsync": (
        ("freebsd", "pfsync_enable=YES\npfsync_syncdev=em3\npfsync_xyzzy=1"),
        ['3: pfsync_xyzzy="1": there is no such setting'],
    ),
    "rc.conf, no pfsync": (("freebsd", "pfsync_syncdev=em3"), ['1: pfsync_syncdev="em3": pfsync_enable is not YES']),
    "rc.conf, an address without a vhid": (
        ("freebsd", 'ifconfig_em1_aliases="inet vhid 1 192.0.2.1/32 inet 192.0.2.5/32"'),
        ["1: inet 192.0.2.5/32: has no vhid: an address of the host itself"],
    ),
    "rc.conf, a quote": (
        ("freebsd", "a=1 # the 19\" rack\npfsync_enable='YES\nxyzzy=1"),
        [
            "2: pfsync_enable='YES: the quote ' is never closed: nothing below is read",
            "1: other settings: nothing of CARP or pfsync: a",
        ],
    ),
    "rc.conf, before FreeBSD 10": (
        ("freebsd", 'cloned_interfaces="carp0"\nifconfig_carp0="vhid 1 192.0.2.1/24"\nifconfig_carp0_alias0="xyzzy"'),
        [
            "2: carp0: a carp interface, as before FreeBSD 10, does not say what it is on: set interface",
            "3: xyzzy: unknown word",
            "1: other settings: nothing of CARP or pfsync: cloned_interfaces",
        ],
    ),
    "sysctl.conf": (
        ("sysctl.conf", "net.inet.carp.xyzzy=1\nxyzzy\nkern.a=1"),
        [
            "2: xyzzy: is no NAME=VALUE",
            "1: other settings: nothing of CARP or pfsync: kern.a",
            "1: net.inet.carp.xyzzy=1: there is no such setting",
        ],
    ),
    "ucarp option": (("ucarp", ucarp("--xyzzy")), ["1: ucarp: option --xyzzy not recognized"]),
    "shell": (("ucarp", 'xyzzy() { :; }\nucarp -v "$VHID" -p secret'), [
        "1: xyzzy() { :; }: is no command line of ucarp",
        "2: ucarp -v $VHID -p …: what a shell would put in is not known: write the values",
    ]),
    "no command line": (
        ("ucarp", f"[ -x /usr/sbin/ucarp ] || exit 0\n{ucarp('2>&1 >>/var/log/x; reboot')}>ucarp -x"),
        [
            "1: ucarp ']': is no command line of ucarp: it has neither --vhid nor --addr",
            "1: exit 0: is no command line of ucarp",
            "2: >> /var/log/x: carpd logs to the journal, or to standard error",
            "2: reboot: is no command line of ucarp",
            "3: > ucarp: carpd logs to the journal, or to standard error",
            "3: ucarp: is no command line of ucarp: it has neither --vhid nor --addr",
        ],
    ),
    "stanza": (
        ("ucarp", "iface eth1 inet static\n ucarp-vid 1\n ucarp-vip 192.0.2.1\n"),
        ["1: iface eth1 inet static: ucarp is not started without ucarp-vid, ucarp-vip, ucarp-password"],
    ),
    "OpenBSD word before an address": (
        ("openbsd", CARP + "dest 192.0.2.9"),
        ["2: dest 192.0.2.9: unknown word"],
    ),
    "behind a value of rc.conf": (
        ("freebsd", 'pfsync_enable="YES" xyzzy 1\npfsync_syncdev=em3'),
        ["1: xyzzy 1: is behind the value of pfsync_enable"],
    ),
    "behind a value of keepalived": (
        ("keepalived", vrrp("priority 100 xyzzy 1")),
        ["5: priority 100 xyzzy 1: has more than a value"],
    ),
    "what keepalived has, and we don't": (
        ("keepalived", vrrp("garp_master_delay 5\ninclude /x/*.conf")),
        [
            "6: include /x/*.conf: is not followed: give the files that it names",
            "5: garp_master_delay 5: a new master announces itself at once, and again some advertisements later",
        ],
    ),
    "what a group watches": (
        (
            "keepalived",
            vrrp() + "vrrp_sync_group G { group { A }\ntrack_interface { eth1\neth1 weight 5\neth3\n}\nxyzzy\n}",
        ),
        [
            "12: xyzzy: is no keyword that import knows",
            "9: track_interface eth1 weight 5: a group without the link can't be master: there are no weights",
            "10: track_interface eth3: only interfaces of virtual hosts of the same group are watched: put one there, "
            "or use a hook",
        ],
    ),
    "a password of keepalived": (
        ("keepalived", vrrp("authentication { auth_type PASS auth_pass xyzzy\nauth_pass xyzzy 1\n}")),
        [
            "5: auth_type PASS auth_pass …: CARP has an HMAC with the password",
            "6: auth_pass …: has more than a value",
        ],
    ),
    "behind a value of conntrackd": (
        ("conntrackd", sync().replace("eth3", "eth3 xyzzy")),
        ["1: Interface eth3 xyzzy: there is no such setting"],
    ),
    "words of ucarp": (("ucarp", ucarp("xyzzy 1")), ["1: xyzzy 1: is no option of ucarp"]),
    "other stanzas": (
        ("ucarp", "auto eth1\n\niface eth1 inet static\n address 192.0.2.2\n ucarp-vid 1\n"),
        [
            "3: iface eth1 inet static: ucarp is not started without ucarp-vid, ucarp-vip, ucarp-password",
            "1: lines 1, 4: nothing of ucarp",
        ],
    ),
    # what the configuration does not take
    "vhid": (("openbsd", "vhid 300 192.0.2.1/24"), ["1: vhid 300: a vhid is 1 to 255"]),
    "no vhid": (("openbsd", "192.0.2.1/24 vhid"), ["1: vhid: wants a value"]),
    "address": (
        ("openbsd", "inet 127.0.0.1/8"),
        ["1: addresses 127.0.0.1/8: is a loopback address: only a unicast address can be a host's"],
    ),
    "netmask": (
        ("openbsd", "192.0.2.1 netmask 255.0.255.0"),
        ["1: 192.0.2.1 netmask 255.0.255.0: wants a netmask"],
    ),
    "words about no address": (
        ("openbsd", "192.0.2.1/24 delete\ninet alias"),
        [
            "1: delete 192.0.2.1/24: leave out the lines of addresses that are not to be there",
            "2: inet alias: wants an address, such as 192.0.2.1/24",
        ],
    ),
    "a group": (("openbsd", "group a.b"), ["1: group a.b: a group has 1 to 15 of the characters A-Z a-z 0-9 _ -"]),
    "nodes without advskew": (
        ("openbsd", "carpnodes 1,2:100"),
        ["1: carpnodes 1,2:100: write VHID:ADVSKEW,VHID:ADVSKEW..., each vhid once"],
    ),
    "nodes": (("openbsd", "carpnodes 1:0,2:300"), ["1: nodes 2 300: advskew is 0 to 254"]),
    "balancing": (
        ("openbsd", "balancing xyzzy"),
        ['1: balancing xyzzy: must be "arp" or "ip" or "ip-stealth" or "ip-unicast"'],
    ),
    "another group": (
        ("openbsd", "carppeer 224.0.0.99"),
        ["1: carppeer 224.0.0.99: another group than 224.0.0.18 and ff02::12 is not supported"],
    ),
    "a peer of no use": (
        ("openbsd", "192.0.2.1/24 carppeer 2001:db8::3"),
        ["1: peer 2001:db8::3: there is no address of its family"],
    ),
    "empty password": (("openbsd", 'pass ""'), ["1: the password: is empty"]),
    "password of another encoding": (
        ("openbsd", "pass \ufffd"),
        ["1: the password: is no UTF-8: put its bytes into a file, and set password_file"],
    ),
    "long password of ucarp": (
        ("ucarp", ucarp(f"-p {20 * 'x'}")),
        ["1: the password: has more than 19 bytes: choose another"],
    ),
    "priority": (("keepalived", vrrp("priority 256")), ["5: priority 256: a priority is 1 to 255"]),
    "time": (("keepalived", vrrp("advert_int fast")), ["5: advert_int fast: is no time in seconds"]),
    # what we do otherwise
    "deadratio": (
        ("ucarp", ucarp("-r 5")),
        ["1: --deadratio 5: a backup waits for three advertisements: let advbase be larger"],
    ),
    "deadratio of everybody": (("ucarp", ucarp("-r 3")), []),
    "AH": (
        ("keepalived", vrrp("authentication { auth_type AH\n}")),
        ["5: auth_type AH: CARP has an HMAC with the password"],
    ),
    "TTL": (
        ("keepalived", vrrp("unicast_peer { 192.0.2.3 min_ttl 254\n}")),
        ["5: 192.0.2.3 min_ttl 254: advertisements have, and need, a TTL of 255"],
    ),
    "another device": (
        ("keepalived", vrrp("virtual_ipaddress_excluded { 192.0.2.9/24 dev eth2\n}")),
        ["5: 192.0.2.9/24 dev eth2: only the address is taken over, on the interface of the instance"],
    ),
    "a group without instances": (
        ("keepalived", "vrrp_sync_group G { group { A }\nnotify /x\n}"),
        ["2: notify /x: the group has no vrrp_instance"],
    ),
    "definitions": (
        ("keepalived", vrrp("priority $P")),
        ["5: priority $P: definitions are not followed: write the values"],
    ),
    "for another host": (
        ("keepalived", vrrp("@fw-a priority 100")),
        ["5: @fw-a priority 100: is for fw-a: say who this host is, --node NAME"],
    ),
    "no channel": (
        ("conntrackd", "Sync { Mode NOTRACK { }\n}"),
        [
            "1: Mode NOTRACK {…}: nodes speak pfsync: losses are told again, and states stand in the standby's kernel "
            "at once",
            "1: Sync {…}: has neither UDP nor Multicast: set syncdev",
        ],
    ),
    "what is accepted": (
        ("conntrackd", filters("Protocol Accept { TCP\n}\nAddress Accept { IPv4_address 192.0.2.0/24\n}")),
        [
            "8: Protocol Accept {…}: all protocols are synchronised but those in [pfsync.ignore]",
            "10: Address Accept {…}: all addresses are synchronised but those in [pfsync.ignore]",
        ],
    ),
    "unknown protocol": (
        ("conntrackd", filters("Protocol Ignore { XYZZY\n}")),
        [
            "8: protocols xyzzy: must be a number or one of icmp, igmp, ipip, tcp, udp, dccp, ipv6, gre, esp, ah, "
            "icmpv6, ipv6-icmp, ospf, sctp, udplite"
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_over(name: str) -> None:
    text, expected = LEFT[name]
    assert left(read(text)) == expected


REFUSED = {
    "a block that is not closed": (("keepalived", "a {\nb {\n}"), "keepalived.conf:1: the block is not closed"),
    "a block that was not opened": (("conntrackd", "a {\n}\n}"), "conntrackd.conf:3: } closes no block"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, expected = REFUSED[name]
    with pytest.raises(MigrationError, match=f"^{expected}$"):
        read(text)


def test_who_this_host_is() -> None:
    """keepalived's files can be the same on all hosts."""
    text = vrrp("@fw-a priority 150\n@^fw-a priority 100")
    assert only_host(read(("keepalived", text), node="fw-a"))["advskew"] == 105
    assert only_host(read(("keepalived", text), node="fw-b"))["advskew"] == 155


def test_sysctls_hold_for_all_virtual_hosts() -> None:
    text = "net.inet.carp.preempt=1\nnet.inet.carp.ifdown_demotion_factor = 10\nnet.pfsync.carp_demotion_factor=99\n"
    pfsync = "pfsync_enable=YES\npfsync_syncdev=em3\n"
    found = read(("sysctl.conf", text), ("freebsd", rc() + pfsync))
    assert only_host(found)["preempt"] is True
    assert only_host(found)["ifdown_demotion_factor"] == 10
    assert found.pfsync is not None
    assert found.pfsync.values["carp_demotion_factor"] == 99
    assert left(found) == []
    assert not [note for note in notes(found) if "preempt" in note]


def test_without_sysctl_conf_preemption_is_told_of() -> None:
    assert [note for note in notes(read(("openbsd", CARP))) if "preempt" in note] == [
        "1: carp0: net.inet.carp.preempt is not in the files: without sysctl.conf it is off, as on the BSDs"
    ]


def test_defer_is_of_the_interfaces_with_virtual_hosts() -> None:
    text = rc() + 'pfsync_enable=YES\npfsync_syncdev=em3\npfsync_ifconfig="defer"\n'
    found = read(("freebsd", text))
    assert found.pfsync is not None
    assert found.pfsync.values["defer"] == ["em1"]


def test_rc_conf_may_name_the_version_of_pfsync() -> None:
    text = 'pfsync_enable=YES\npfsync_syncdev=em3\npfsync_ifconfig="{}"\n'
    for words, version in {"": "1400", "version 1301": "1301"}.items():
        found = read(("freebsd", text.format(words)))
        assert found.pfsync is not None
        assert found.pfsync.values["version"] == version
        assert any(f'version = "{version}"' in note for note in notes(found))


SAID = (
    "vhid 1 carpdev em1 pass xyzzy advbase 2 advskew 100 192.0.2.1/24",
    "inet 192.0.2.1 255.255.255.0 NONE inet6 alias 2001:db8::1 64 carpdev em1 vhid 3 group edge",
    "inet alias 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255 vhid 3 carppeer 192.0.2.3",
    "carpnodes 1:0,2:100 balancing ip-stealth carpdev em1 192.0.2.1 prefixlen 24",
    "vhid 5 advskew 3 carpnodes 7:50 balancing none down",
    "carpnodes 1:0,2:100 vhid 3 advskew 4 group edge up",
)


@pytest.mark.parametrize("line", SAID)
def test_words_are_to_carpctl_what_they_are_here(line: str) -> None:
    asked = ifconfig.request(["carp0", "create", *line.split()], {}, "fw-a")
    by_carpctl = edited({}, asked.edits)["carp"]["carp0"]
    assert only_host(read(("openbsd", f"-group carp\n{line}"))) == by_carpctl


def test_interfaces_have_other_names() -> None:
    found = read(("openbsd", CARP), interfaces={"em1": "eth7"})
    assert only_host(found)["interface"] == "eth7"
    assert not [note for note in notes(found) if "--interface-map" in note]
    assert "1: interface em1: Linux has another name for it: --interface-map em1=eth1" in notes(read(("openbsd", CARP)))


COMMENTS: dict[str, tuple[str, list[int]]] = {
    # a quote in a comment opens nothing, and a backslash at its end continues nothing
    "freebsd": (
        '''ifconfig_em1_alias0="inet vhid 1 192.0.2.1/32"
gateway_enable="YES" # the 19" rack
ifconfig_em1_alias1="inet vhid 2 192.0.2.2/32" # it's another's \\
ifconfig_em1_aliases="inet vhid 3 192.0.2.3/32
  inet vhid 4 192.0.2.4/32";# 19"
# see \\\\server\\share\\
ifconfig_em1_alias2="inet vhid 5 192.0.2.5/32"''',
        [1, 2, 3, 4, 5],
    ),
    "ucarp": (
        """iface eth1 inet static
  ucarp-vid 1
  ucarp-password it's # mine
  ucarp-vip 192.0.2.1
# note \\
iface eth2 inet static
  ucarp-vid \\
2
  ucarp-password x
  ucarp-vip 192.0.2.2""",
        [1, 2],
    ),
    # only OpenBSD's netstart goes on in a comment
    "openbsd": ("vhid 1 192.0.2.1/24\n# note \\\nvhid 2\nadv\\\nskew 3 # it's", [1]),
}


@pytest.mark.parametrize("name", COMMENTS)
def test_comments_hide_nothing(name: str) -> None:
    text, vhids = COMMENTS[name]
    found = read((name, text))
    assert [vhid for table in found.hosts for vhid in table.vhids] == vhids
    assert not [told for told in left(found) if "nothing of CARP" not in told and "is behind the value" not in told]


def test_two_commands_on_a_line() -> None:
    found = read(("ucarp", "ucarp -v 1 -p 'x;y' -a 192.0.2.1 & if x; then ucarp -v 2 -a 192.0.2.2 -o /etc/pw; fi"))
    one, other = found.hosts
    assert (one.vhids, one.values["password"]) == ((1,), "x;y")
    assert (other.vhids, other.values["password_file"]) == ((2,), "/etc/pw")
    assert left(found) == [f"1: {command}: is no command line of ucarp" for command in ("if x", "fi")]


def test_who_runs_a_script() -> None:
    found = read(("keepalived", vrrp('notify "/x y --pass=xyzzy" admin staff')))
    (script,) = found.scripts
    assert (script.command, script.user) == (("/x", "y", "--pass=…"), "admin")
    assert "5: notify … staff: a hook has the groups of its user" in left(found)


def test_addresses_of_the_firewall_need_not_be_ignored() -> None:
    ignored = "127.0.0.1", "10.0.0.2", "192.0.2.1", "203.0.113.0/24"
    text = filters("Address Ignore {\n" + "\n".join(f"IPv4_address {address}" for address in ignored) + "\n}")
    found = read(("keepalived", vrrp()), ("conntrackd", text))
    assert found.pfsync is not None
    assert found.pfsync.values["ignore"] == {"addresses": ["203.0.113.0/24"]}


def test_nor_those_of_links_that_are_not_taken_over() -> None:
    channels = """Sync {
UDP Default { Interface eth3\nIPv4_address 10.0.0.1\n}
UDP { Interface eth4\nIPv6_address fe80::1%eth4\nIPv6_Destination_Address 2001:db8:0::2\n}
Multicast { IPv4_address 225.0.0.50\nIPv4_interface 10.0.2.1\n}
}
"""
    ignored = "fe80::1", "2001:db8::2", "10.0.2.1", "10.0.0.1/32", "225.0.0.50"
    addresses = "\n".join(f"IPv{6 if ':' in address else 4}_address {address}" for address in ignored)
    found = read(("conntrackd", f"{channels}General {{ Filter {{ Address Ignore {{\n{addresses}\n}} }} }}"))
    assert found.pfsync is not None
    assert found.pfsync.values["ignore"] == {"addresses": ["225.0.0.50"]}
