class NoSuchCountry(Exception):
    pass


def handler(params, context):
    if params["country"] == "Atlantis":
        raise NoSuchCountry(params["country"])
    return {"id": "parcel-" + params["reservation"]}
