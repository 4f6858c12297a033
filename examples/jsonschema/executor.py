#!/usr/bin/env python3
r"""Checks `Document` against the JSON schema `Schema`, in a server of its own: what an image needs
that speaks the original's protocol. Needs the package `jsonschema` (Debian: python3-jsonschema).

As an image, of the Dockerfile beside it:

    docker build --tag jsonschema examples/jsonschema
    serverledge-cli create -f check --runtime custom --custom_image jsonschema

Or on a machine that has the package, without one:

    serverledge-cli create -f check --runtime custom \
        --handler "server:/usr/bin/python3 executor.py" --src examples/jsonschema/executor.py
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError


def check(params):
    Draft7Validator.check_schema(params["Schema"])
    errors = Draft7Validator(params["Schema"]).iter_errors(params["Document"])
    found = sorted((list(map(str, error.path)), error.message) for error in errors)
    return {"Valid": not found, "Errors": [{"At": at, "Message": said} for at, said in found]}


class Executor(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            reply = {"Success": True, "Result": json.dumps(check(asked["Params"] or {})), "Output": ""}
        except KeyError as error:
            reply = {"Success": False, "Output": f"the parameter {error} is missing"}
        except SchemaError as error:
            reply = {"Success": False, "Output": f"`Schema` is no schema: {error.message}"}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        pass


ThreadingHTTPServer(("", 8080), Executor).serve_forever()
