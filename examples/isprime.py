"""Is `n` a prime?"""

from math import isqrt


def handler(params, context):
    return is_prime(int(params["n"]))


def is_prime(n):
    return n > 1 and all(n % divisor for divisor in range(2, isqrt(n) + 1))
