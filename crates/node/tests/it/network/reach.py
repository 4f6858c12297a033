"""Tells what a function reaches: for each attempt, what came back or the error's name."""

import errno
import hashlib
import os
import socket
import threading


def tcp(host, port):
    with socket.create_connection((host, port), 10) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(100), b"")).decode()


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
        flow.settimeout(10)
        flow.connect((host, port))
        flow.send(b"hello")
        return flow.recv(100).decode()


def name(host):
    return socket.getaddrinfo(host, 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]


def bulk(host, port, size):
    sent = os.urandom(size)
    with socket.create_connection((host, port), 10) as connection:
        def send():
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        got = hashlib.sha256()
        while data := connection.recv(1 << 16):
            got.update(data)
        sender.join()
    return got.digest() == hashlib.sha256(sent).digest()


def interfaces():
    return sorted(name for _, name in socket.if_nameindex())


def handler(params, context):
    results = []
    for what, *arguments in params["attempts"]:
        try:
            results.append(globals()[what](*arguments))
        except socket.gaierror:
            results.append("no such name")
        except OSError as error:
            results.append(errno.errorcode.get(error.errno, str(error)))
    return results
