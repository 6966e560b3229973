"""python-zeroconf beside our announcer and our browser.

usage: zeroconf_peer.py MDNS_PEER ADDRESS SECONDS
"""

import queue
import socket
import sys
import time

from harness import Ours, report
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

TYPE = "_interop._tcp"
FULL = f"{TYPE}.local."


def sees_us(driver, zeroconf, address):
    changes = queue.Queue()

    def changed(zeroconf, service_type, name, state_change):
        changes.put((time.monotonic(), state_change, name))

    def wait(wanted, limit):
        deadline = time.monotonic() + limit
        while (left := deadline - time.monotonic()) > 0:
            try:
                at, change, name = changes.get(timeout=left)
            except queue.Empty:
                return None
            if change is wanted:
                return at, name
        return None

    browser = ServiceBrowser(zeroconf, FULL, handlers=[changed])
    ours = Ours(driver, "announce", TYPE, "Node A.1/ü", "7001", "version=1", "zone=b")
    try:
        added = wait(ServiceStateChange.Added, 10)
        report("D-065", "python-zeroconf finds our announcement", None if added else f"not seen: {ours.seen}")
        if not added:
            return
        name = added[1]
        info = zeroconf.get_service_info(FULL, name, timeout=5000)
        got = info and (
            info.port,
            info.parsed_addresses(IPVersion.V4Only),
            {key.decode(): value.decode() for key, value in info.properties.items()},
        )
        expected = (7001, [address], {"id": "Node A.1/ü", "version": "1", "zone": "b"})
        right = got and got[:2] == expected[:2] and expected[2].items() <= got[2].items()
        report("D-065", "name, port, TXT and address are right", None if right else f"{got} is not {expected}")
        server = info and info.server
        right = info and server == name.removesuffix("." + FULL) + ".local."
        report("D-040", "the host is the label", None if right else f"{server} of {name}")
        ours.say("update version=2")
        updated = wait(ServiceStateChange.Updated, 5)
        report("D-041", "python-zeroconf sees changed TXT", None if updated else "no update within 5 s")
        began = time.monotonic()
        ours.say("close")
        gone = wait(ServiceStateChange.Removed, 10)
        fault = "not seen" if not gone else None if gone[0] - began <= 1.6 else f"after {gone[0] - began:.1f} s"
        report("D-065", "our goodbye is seen within 1.6 s", fault)
    finally:
        browser.cancel()
        ours.end()


def is_seen(driver, zeroconf, address, seconds):
    ours = Ours(driver, "browse", TYPE)
    if not ours.wait("browsing", 10):
        report("D-063", "our browser starts", f"{ours.seen}")
        return
    info = ServiceInfo(
        FULL,
        f"Python Peer.{FULL}",
        addresses=[socket.inet_aton(address)],
        port=7200,
        properties={"id": "py-1", "version": "1"},
        server="python-peer.local.",
    )
    zeroconf.register_service(info)
    try:
        joined = ours.wait("joined", 10)
        expected = f'joined "py-1" {address}:7200'
        right = joined and joined[1].startswith(expected) and "version=1" in joined[1]
        report("D-063", "our browser finds it", None if right else f"{joined} is not {expected}")
        if not joined:
            return
        flap = ours.wait("", seconds)
        report("D-063", f"no event for {seconds} s", None if flap is None else f"{flap[1]}")
        info = ServiceInfo(
            FULL,
            f"Python Peer.{FULL}",
            addresses=[socket.inet_aton(address)],
            port=7200,
            properties={"id": "py-1", "version": "2"},
            server="python-peer.local.",
        )
        zeroconf.update_service(info)
        updated = ours.wait("updated", 10)
        right = updated and "version=2" in updated[1]
        report("D-063", "changed TXT is seen", None if right else f"{updated}, {ours.seen}")
        began = time.monotonic()
        zeroconf.unregister_service(info)
        left = ours.wait('left "py-1"', 10)
        # unregister_service says goodbye three times before it returns; the first counts.
        fault = f"not seen: {ours.seen}" if not left else None if left[0] - began <= 1.7 else f"after {left[0] - began:.1f} s"
        report("D-063", "its goodbye is seen within 1.7 s", fault)
    finally:
        ours.end()


def main():
    driver, address, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    zeroconf = Zeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
    try:
        sees_us(driver, zeroconf, address)
        is_seen(driver, zeroconf, address, seconds)
    finally:
        zeroconf.close()


main()
