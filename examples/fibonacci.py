"""The first `n` Fibonacci numbers."""


def handler(params, context):
    numbers = []
    a, b = 0, 1
    for _ in range(int(params["n"])):
        numbers.append(a)
        a, b = b, a + b
    return numbers
