class BrokenImage(Exception):
    pass


def handler(params, context):
    """Reads a plain PGM, a picture in grey that people can write by hand."""
    words = params["pgm"].split()
    try:
        width, height = int(words[1]), int(words[2])
        values = [int(word) for word in words[4:]]
    except (IndexError, ValueError) as error:
        raise BrokenImage(params["name"]) from error
    if words[0] != "P2" or len(values) != width * height:
        raise BrokenImage(params["name"])
    rows = [values[at : at + width] for at in range(0, len(values), width)]
    return {"width": width, "mean": sum(values) // len(values), "pixels": rows}
