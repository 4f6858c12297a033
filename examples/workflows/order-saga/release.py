def handler(params, context):
    return {"released": params["reservation"]}
