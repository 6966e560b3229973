"""The OpenSSL inside pyOpenSSL: new enough for the hybrid exchange, and willing to misbehave.

usage: openssl_peer.py ZAP_PEER CERTIFICATES
"""

import socket
import subprocess
import sys
import threading

from OpenSSL import SSL

from harness import Ours, report

HYBRID = "X25519MLKEM768"
NODE = b"node.interop.example"


def context(directory, identity="node", alpn=b"zap-http/1"):
    made = SSL.Context(SSL.TLS_METHOD)
    if identity:
        made.use_certificate_chain_file(f"{directory}/{identity}.pem")
        made.use_privatekey_file(f"{directory}/{identity}.key")
    made.load_verify_locations(f"{directory}/ca.pem")
    made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: arguments[-1] == 1)
    made.set_alpn_select_callback(lambda connection, offered: alpn)
    return made


def group_of(connection):
    name = connection.get_group_name()
    return name.decode() if isinstance(name, bytes) else name


def same_group(name):
    return (name or "").upper() == HYBRID.upper()


def serves_us(driver, directory, row, what, expected, **settings):
    """Our client meets an OpenSSL server."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = []

    def serve():
        accepted, _ = listener.accept()
        connection = SSL.Connection(context(directory, **settings), accepted)
        connection.set_accept_state()
        try:
            connection.do_handshake()
            seen.append(group_of(connection))
            connection.recv(1)
        except SSL.Error:
            pass
        accepted.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    addr = "{}:{}".format(*listener.getsockname())
    result = subprocess.run([driver, "handshake", addr, "--tls", directory], capture_output=True, text=True, timeout=30)
    thread.join(10)
    got = result.stdout.strip() or result.stderr.strip()
    fault = None if got == expected else f"{got} is not {expected}"
    if not fault and not expected.startswith("refused") and not same_group(seen and seen[0]):
        fault = f"the server says {seen}"
    report(row, what, fault)


def is_served(directory, addr, row, what, identity, expected):
    """An OpenSSL client meets our server."""
    made = context(directory, identity=identity)
    made.set_alpn_protos([b"zap-http/1"])
    connection = SSL.Connection(made, socket.create_connection(addr))
    connection.set_tlsext_host_name(NODE)
    connection.set_connect_state()
    try:
        connection.do_handshake()
        # A length of 0 is answered with an error frame: enough to know that we were let in.
        connection.send(b"\0\0\0\0")
        answer = connection.recv(64)
        got = f"{group_of(connection)} {connection.get_alpn_proto_negotiated().decode()} {answer[4:7].decode()}"
    except SSL.Error as error:
        got = str(error.args[0][0][-1] if error.args and error.args[0] else error)
    fault = None if got.upper() == expected.upper() or (expected.islower() and expected in got) else f"{got} is not {expected}"
    report(row, what, fault)


def main():
    driver, directory = sys.argv[1:3]
    serves_us(driver, directory, "SV-P01", "our client, an OpenSSL server: hybrid", f"{HYBRID} zap-http/1")
    serves_us(
        driver, directory, "SV-P23", "an OpenSSL server that selects what was not offered", "refused Alpn", alpn=b"h2"
    )
    serves_us(driver, directory, "SV-P02", "an OpenSSL server that has expired", "refused Expired", identity="expired")
    serves_us(
        driver, directory, "SV-P05", "an OpenSSL server of another CA", "refused UnknownIssuer", identity="stranger"
    )
    ours = Ours(driver, "serve", "--tls", directory)
    ready = ours.wait("ready ", 10)
    host, port = ready[1].split()[1].rsplit(":", 1)
    addr = (host, int(port))
    try:
        is_served(directory, addr, "SV-P01", "an OpenSSL client, our server: hybrid", "node", f"{HYBRID} zap-http/1 ZAP")
        is_served(directory, addr, "SV-P11", "an OpenSSL client without certificate", None, "certificate required")
        is_served(directory, addr, "SV-P11", "an OpenSSL client that has expired", "expired", "certificate expired")
        is_served(directory, addr, "SV-P11", "an OpenSSL client of another CA", "stranger", "unknown ca")
    finally:
        ours.end()


main()
