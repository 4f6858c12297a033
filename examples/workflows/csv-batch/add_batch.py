from decimal import Decimal


def handler(params, context):
    total = sum(Decimal(row["price"]) * int(row["count"]) for row in params["rows"])
    return {"cents": int(total * 100), "rows": len(params["rows"]), "currency": params["currency"]}
