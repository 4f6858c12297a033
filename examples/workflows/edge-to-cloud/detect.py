def handler(params, context):
    small = params["small"]
    bright = sum(1 for pixel in small if pixel > 128) / len(small)
    if bright == 0:
        return {"label": "nothing", "confidence": 0.99}
    return {"label": "person", "confidence": 0.9 if bright > 0.5 else 0.4}
