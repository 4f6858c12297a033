"""SHA-256 of the text `n`."""

import hashlib


def handler(params, context):
    return hashlib.sha256(str(params["n"]).encode()).hexdigest()
