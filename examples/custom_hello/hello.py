#!/usr/bin/env python3
r"""A Python program, run anew for each call, instead of a function: greets whom `name` names.

    serverledge-cli create -f hello --runtime custom --handler hello.py \
        --src examples/custom_hello/hello.py
"""

import json
import os
import sys


def main():
    params = {}
    # Empty if the call has no parameters.
    if os.environ["PARAMS_FILE"]:
        with open(os.environ["PARAMS_FILE"], encoding="utf-8") as file:
            params = json.load(file)
    if "name" not in params:
        sys.exit("the parameter `name` is missing")
    print("greeting", params["name"])
    with open(os.environ["RESULT_FILE"], "w", encoding="utf-8") as file:
        json.dump({"message": f"Hello, {params['name']}!"}, file)


main()
