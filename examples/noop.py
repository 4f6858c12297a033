"""Does nothing: what an invocation costs by itself."""


def handler(params, context):
    return None
