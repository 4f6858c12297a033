"""Greets, and adds `a` and `b` if they are numbers."""


def handler(params, context):
    reply = {"message": "Hello from Serverledge!", **(params or {})}
    try:
        reply["sum"] = float(params["a"]) + float(params["b"])
    except (TypeError, KeyError, ValueError):
        pass  # Nothing to add.
    return reply
