"""Sleeps for `n` seconds."""

import time


def handler(params, context):
    seconds = float(params["n"])
    time.sleep(seconds)
    return {"slept": seconds}
