PRICES = {"kettle": 3995, "teapot": 2450}


class OutOfStock(Exception):
    pass


def handler(params, context):
    item, count = params["item"], params["count"]
    if item not in PRICES or count > 10:
        raise OutOfStock(f"{count} x {item}")
    return {"id": f"r-{item}-{count}", "cents": PRICES[item] * count}
