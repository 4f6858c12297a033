class Declined(Exception):
    pass


class Busy(Exception):
    pass


def handler(params, context):
    card = params["card"]
    if card == "declined":
        raise Declined(card)
    # A bank that is busy at first.
    if card == "slow" and params["attempt"] < 1:
        raise Busy("try again")
    return {"id": f"p-{card}", "cents": params["cents"]}
