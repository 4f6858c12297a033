"""The lines of `InputText` (a text, or a list of lines) in which the expression `Pattern` matches."""

import re


def handler(params, context):
    text = params["InputText"]
    lines = text.splitlines() if isinstance(text, str) else text
    pattern = re.compile(params.get("Pattern", "serverless"), re.IGNORECASE)
    matches = [line for line in lines if pattern.search(line)]
    return {"Count": len(matches), "Lines": matches}
