def handler(params, context):
    return {"paid": params["cents"], "to": params["who"]}
