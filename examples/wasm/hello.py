"""Greets whom `name` names, as the interface in sdk/wasm/serverledge.wit says. Make
a component of it (docs/webassembly.md):

    componentize-py -d serverledge.wit -w function componentize hello -o hello.wasm

What is printed is shown to callers who ask for output.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.handler import Failure


class Handler(exports.Handler):
    def handle(self, params, context):
        given = json.loads(params)
        # An exception of Python's own, if there is no name, is a failure as well.
        name = given["name"].strip()
        if not name:
            raise Err(Failure("NoName", "the parameter `name` is empty"))
        print(f"greeting {name} for {context.request_id}")
        return json.dumps(
            {
                "message": f"Hello, {name}!",
                "functionName": context.function_name,
                "memoryMb": context.memory_mb,
            }
        )
