"""The work of fibonacci.py, but an output of one size: for measurements that vary only the work."""


def handler(params, context):
    numbers = []
    a, b = 0, 1
    for _ in range(int(params["n"])):
        numbers.append(a)
        a, b = b, a + b
    return "done"
