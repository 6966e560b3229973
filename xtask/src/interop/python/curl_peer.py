"""curl against `peerage proxy` and `peerage expose`, openssl against `peerage expose` with TLS.

usage: curl_peer.py PEERAGE CERTIFICATES DIRECTORY
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

from harness import Ours, report

released = threading.Semaphore(0)


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_GET(self):
        if self.path == "/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for count in range(3):
                if count:
                    released.acquire()
                event = f"data: {count}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer(b"")

    def answer(self, body):
        seen = {"method": self.command, "path": self.path, "x": self.headers.get_all("x-multi") or []}
        self.send_response(418 if self.path.startswith("/teapot") else 200)
        self.send_header("x-seen", json.dumps(seen))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def curl(*arguments, data=None):
    """Status, headers and body."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--include", *arguments]
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        return 0, {}, done.stderr
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def expect(row, what, got, expected):
    report(row, what, None if got == expected else f"{got} is not {expected}")


def through_the_proxy(base):
    status, headers, body = curl("-H", "x-multi: one", "-H", "x-multi: two", f"{base}/v1/x?y=1")
    seen = json.loads(headers.get("x-seen", "{}"))
    expect("curl", "a GET arrives", (status, seen), (200, {"method": "GET", "path": "/v1/x?y=1", "x": ["one", "two"]}))
    expect("curl", "the answer names the peer", headers.get("peerage-peer"), "node-1")
    large = os.urandom(1 << 20)
    status, headers, body = curl("--data-binary", "@-", "-H", "expect:", f"{base}/echo", data=large)
    expect("curl", "a POST of 1 MiB comes back", (status, body == large), (200, True))
    expect("curl", "a status is passed on", curl(f"{base}/teapot")[0], 418)
    expect("curl", "HTTP/2 with prior knowledge", curl("--http2-prior-knowledge", f"{base}/teapot")[0], 418)
    upgrade = ("-H", "connection: upgrade", "-H", "upgrade: websocket", "-H", "sec-websocket-version: 13")
    key = ("-H", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    expect("curl", "WebSocket is refused", curl(*upgrade, *key, f"{base}/socket")[0], 501)
    events = Ours("curl", "--silent", "--no-buffer", "--max-time", "20", f"{base}/events")
    fault = None
    for count in range(3):
        if count:
            released.release()
        if not events.wait(f"data: {count}", 10):
            fault = f"event {count} does not come: {events.seen}"
            break
    events.end()
    report("curl", "events come one by one", fault)


def classical(peerage, certificates, directory):
    """OpenSSL 3.0 has no hybrid exchange: it must be refused."""
    tls = ["--ca", f"{certificates}/ca.pem", "--cert", f"{certificates}/node.pem", "--key", f"{certificates}/node.key"]
    exposed = Ours(
        peerage, *tls, "expose", "files", "--upstream", directory, "--listen", "127.0.0.1:0", "--node-id", "tls-1"
    )
    ready = exposed.wait("ready ", 20)
    if not ready:
        report("SV-P12", "peerage expose with TLS starts", f"{exposed.seen}")
        return
    for row, version in (("SV-P12", "-tls1_3"), ("SV-P13", "-tls1_2")):
        command = ["openssl", "s_client", "-connect", ready[1].split()[1], "-CAfile", f"{certificates}/ca.pem", version]
        command += ["-groups", "X25519:P-256"]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=30)
        text = (done.stdout + done.stderr).decode("latin-1")
        wanted = "handshake failure" if row == "SV-P12" else "protocol version"
        fault = None if wanted in text and "Cipher is (NONE)" in text else text[-300:]
        report(row, f"openssl s_client {version} is refused by peerage expose", fault)
    exposed.end()
    exposed.kill()


def main():
    peerage, certificates, directory = sys.argv[1:4]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    upstream = "http://127.0.0.1:{}".format(server.server_address[1])
    exposed = Ours(peerage, "expose", "echo", "--upstream", upstream, "--node-id", "node-1", "--meta", "zone=b")
    proxy = Ours(peerage, "proxy", "--listen", "127.0.0.1:0")
    try:
        ready = exposed.wait("ready ", 20) and proxy.wait("ready ", 20)
        if not ready:
            report("curl", "peerage expose and peerage proxy start", f"{exposed.seen} {proxy.seen}")
            return
        through_the_proxy("http://echo.localhost:{}".format(ready[1].rsplit(":", 1)[1]))
    finally:
        proxy.kill()
        exposed.kill()
    if shutil.which("openssl"):
        classical(peerage, certificates, directory)


main()
