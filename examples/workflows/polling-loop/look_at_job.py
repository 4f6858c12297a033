def handler(params, context):
    # The work of a real one would be going on elsewhere; this one is done at the third look.
    if params["job"].endswith("endless") or params["look"] < 3:
        return {"done": False}
    return {"done": True, "result": params["job"].upper()}
