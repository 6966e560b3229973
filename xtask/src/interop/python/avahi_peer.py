"""avahi-daemon beside our announcer and our browser, with a message bus of its own.

usage: avahi_peer.py MDNS_PEER INTERFACE ADDRESS DIRECTORY
"""

import os
import subprocess
import sys
import time

from harness import Ours, report

TYPE = "_interop._tcp"
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <auth>ANONYMOUS</auth>
  <allow_anonymous/>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/>
    <allow send_destination="*"/>
  </policy>
</busconfig>
"""
DAEMON = """[server]
host-name=avahi-host
allow-interfaces={interface}
use-ipv4=yes
use-ipv6=no
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
[rlimits]
"""


def start(directory, interface):
    with open(f"{directory}/bus.conf", "w") as file:
        file.write(BUS.format(directory=directory))
    with open(f"{directory}/avahi.conf", "w") as file:
        file.write(DAEMON.format(interface=interface))
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={directory}/bus"
    bus = subprocess.Popen(
        ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--nopidfile"], stderr=subprocess.STDOUT
    )
    wait_until(lambda: os.path.exists(f"{directory}/bus"), 10)
    daemon = Ours(
        "avahi-daemon", "-f", f"{directory}/avahi.conf", "--no-drop-root", "--no-chroot", "--no-rlimits"
    )
    ready = daemon.wait("Server startup complete", 15)
    return bus, daemon, ready


def wait_until(condition, limit):
    deadline = time.monotonic() + limit
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def sees_us(driver, address):
    browser = Ours("avahi-browse", "--resolve", "--parsable", TYPE)
    ours = Ours(driver, "announce", TYPE, "node-1", "7001", "version=1")
    try:
        found = browser.wait("=;", 15)
        fields = found and found[1].split(";")
        right = fields and fields[7:9] == [address, "7001"] and '"id=node-1"' in fields[9] and '"version=1"' in fields[9]
        report("D-065", "avahi-browse finds our announcement", None if right else f"{fields}, {browser.seen}")
        if not found:
            return
        began = time.monotonic()
        ours.say("close")
        gone = browser.wait("-;", 10)
        fault = "not seen" if not gone else None if gone[0] - began <= 1.6 else f"after {gone[0] - began:.1f} s"
        report("D-065", "avahi-browse sees our goodbye within 1.6 s", fault)
    finally:
        ours.end()
        browser.kill()


def is_seen(driver, address):
    label = "Avahi Peer.2 é"
    ours = Ours(driver, "browse", TYPE)
    ours.wait("browsing", 10)
    published = Ours("avahi-publish", "-s", label, TYPE, "7300", "colour=blue")
    try:
        joined = ours.wait("joined", 15)
        expected = f'joined "{label}" {address}:7300'
        right = joined and joined[1].startswith(expected) and "colour=blue" in joined[1]
        report("D-064", "the label is the node id", None if right else f"{joined} is not {expected}; {ours.seen}")
        if not joined:
            return
        published.child.terminate()
        left = ours.wait(f'left "{label}"', 10)
        report("D-064", "it leaves on goodbye", None if left and "Goodbye" in left[1] else f"{left}, {ours.seen}")
    finally:
        published.kill()
        ours.end()


def main():
    driver, interface, address, directory = sys.argv[1:5]
    bus, daemon, ready = start(directory, interface)
    try:
        if not ready:
            print(f"skip D-064 avahi-daemon does not start here: {daemon.seen[-3:]}")
            return
        sees_us(driver, address)
        is_seen(driver, address)
    finally:
        daemon.kill()
        bus.kill()


main()
