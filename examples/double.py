"""2 n, a building block of workflows."""


def handler(params, context):
    return 2 * int(params["n"])
