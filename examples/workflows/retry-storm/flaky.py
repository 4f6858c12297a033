class Busy(Exception):
    pass


class Broken(Exception):
    pass


def handler(params, context):
    if params["failures"] < 0:
        raise Broken("for good")
    if params["attempt"] < params["failures"]:
        raise Busy(f"attempt {params['attempt']}")
    return {"call": params["call"], "attempts": params["attempt"] + 1}
