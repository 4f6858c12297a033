"""The world, in a network namespace of its own: echoes, pages, and a name server for all names."""

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


closed = 0


def page(connection):
    """Each page tells at which address it was found, or does what no page should."""
    global closed
    with connection, connection.makefile("rb") as lines:
        path = lines.readline().split()[1].decode()
        host = ""
        while (line := lines.readline().strip()):
            if line.lower().startswith(b"host:"):
                host = line[5:].strip().decode()
        own = connection.getsockname()[0]
        text, status, more = f"{own} for {host}", "200 OK", ""
        match path.split("/")[1:]:
            case ["redirect", to]:
                status, more = "302 Found", f"Location: http://{to}/\r\n"
            case ["closed"]:
                text = str(closed)
            case ["silent"]:
                try:
                    connection.recv(1)
                except OSError:
                    pass
                closed += 1
                return
            case ["endless"]:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 65536)
            case ["head"]:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X: " + b"x" * 8000 + b"\r\n")
        connection.sendall(
            f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )


def pages():
    server = socket.create_server(("0.0.0.0", 8080), backlog=128)

    def serve(connection):
        try:
            page(connection)
        except OSError:
            pass  # Whoever asked has gone.

    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


METADATA = "169.254.169.254"
asked = 0


def addresses(name):
    """Every name has the world's address, but for those that mean no good."""
    global asked
    match name:
        case "none.example":
            return []
        case "metadata.example":
            return [METADATA]
        case "both.example":
            return [METADATA, WORLD]
        case "rebind.example":
            asked += 1
            return [METADATA if asked % 2 == 0 else WORLD]
    return [WORLD]


def resolve(query):
    """There is no other kind of record than addresses."""
    end = query.index(b"\0", 12) + 5
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    found = addresses(".".join(labels)) if query[end - 4 : end - 2] == b"\0\1" else []
    code = b"\x83" if labels == ["none", "example"] else b"\x80"
    head = query[:2] + b"\x81" + code + b"\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
    records = [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(it) for it in found]
    return head + query[12:end] + b"".join(records)


sys.stdin.readline()
ip("link", "set", "lo", "up")
ip("addr", "add", GATE + "/24", "dev", "w0")
ip("link", "set", "w0", "up")
for address in (WORLD, "169.254.169.254", "100.100.100.200", "10.9.9.9"):
    ip("addr", "add", address + "/32", "dev", "lo")
for port in (80, 443):
    threading.Thread(target=tcp, args=(port,), daemon=True).start()
threading.Thread(target=pages, daemon=True).start()
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
        socket.create_connection((WORLD, 8080)).close()
        break
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.read()
