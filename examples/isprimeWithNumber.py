"""Is `n` a prime? Returns `n` as well, for the next task of a workflow."""

from math import isqrt


def handler(params, context):
    n = int(params["n"])
    prime = n > 1 and all(n % divisor for divisor in range(2, isqrt(n) + 1))
    return {"IsPrime": prime, "n": n}
