def handler(params, context):
    return {"refunded": params["payment"]}
