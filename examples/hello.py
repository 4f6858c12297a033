"""Greets, returns its parameters, and adds `a` and `b` if they are numbers."""

import math


def handler(params, context):
    params = params or {}
    reply = {"message": "Hello from Serverledge!", **params}
    a, b = number(params.get("a")), number(params.get("b"))
    if a is not None and b is not None:
        reply["sum"] = a + b
    return reply


def number(value):
    """The number that `value` is or spells; None if it doesn't. JSON has no infinity."""
    try:
        return int(str(value))
    except ValueError:
        pass
    try:
        real = float(str(value))
    except ValueError:
        return None
    return real if math.isfinite(real) else None
