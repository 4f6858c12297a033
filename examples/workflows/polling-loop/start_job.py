def handler(params, context):
    return {"id": "job-" + params["work"]}
