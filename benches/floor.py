"""The interpreter's side of the floor: parse, call, encode, and nothing else."""

import json
import socket
import sys


def handler(params, context):
    return None


node = socket.socket(socket.AF_UNIX)
node.connect(sys.argv[1])
while data := node.recv(65536):
    result = handler(json.loads(data[4:]).get("Params"), {})
    reply = json.dumps(result).encode()
    node.sendall(len(reply).to_bytes(4, "big") + reply)
