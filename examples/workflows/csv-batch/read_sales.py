import csv
import io


def handler(params, context):
    rows = list(csv.DictReader(io.StringIO(params["csv"])))
    return {"rows": rows, "count": len(rows)}
