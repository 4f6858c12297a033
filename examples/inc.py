"""n + 1, a building block of workflows."""


def handler(params, context):
    return int(params["n"]) + 1
