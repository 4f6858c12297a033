def handler(params, context):
    return {"number": params["number"], "collected": params["cents"]}
