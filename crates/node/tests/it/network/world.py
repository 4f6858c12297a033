"""The world, in a network namespace of its own: echoes, and a name server that knows one name."""

import socket
import subprocess
import sys
import threading

WORLD = "93.184.216.34"
GATE = "10.77.0.2"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def echo(connection):
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def tcp(port):
    server = socket.create_server(("0.0.0.0", port), backlog=128)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def udp(host, port, answer):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((host, port))
    while True:
        data, sender = server.recvfrom(1 << 16)
        server.sendto(answer(data), sender)


def resolve(query):
    """Every name has the world's address; there is no other kind of record."""
    end = query.index(b"\0", 12) + 5
    known = query[end - 4 : end - 2] == b"\0\1"
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(WORLD)
    return head + query[12:end] + (record if known else b"")


sys.stdin.readline()
ip("link", "set", "lo", "up")
ip("addr", "add", GATE + "/24", "dev", "w0")
ip("link", "set", "w0", "up")
for address in (WORLD, "169.254.169.254", "100.100.100.200", "10.9.9.9"):
    ip("addr", "add", address + "/32", "dev", "lo")
for port in (80, 443):
    threading.Thread(target=tcp, args=(port,), daemon=True).start()
for host, port, answer in (
    (WORLD, 7, lambda data: data),
    ("169.254.169.254", 7, lambda data: data),
    (GATE, 53, resolve),
):
    threading.Thread(target=udp, args=(host, port, answer), daemon=True).start()
# Until all listen: the last one is asked.
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.settimeout(0.05)
while True:
    try:
        probe.sendto(b"\0" * 12 + b"\0\0\1\0\1", (GATE, 53))
        probe.recv(512)
        socket.create_connection((WORLD, 443)).close()
        socket.create_connection((WORLD, 80)).close()
        break
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.read()
