"""A function for AWS Lambda, which runs here as it is: greets whom `name` names. Its client of the
runtime interface is Amazon's own.

    pip install --target . -r requirements.txt
    serverledge-cli create -f hello --runtime provided.al2023 --handler function.handler \\
        --memory 256 --src hello.tar
"""


def handler(event, context):
    name = event.get("name")
    if not name:
        raise ValueError("the event has no `name`")
    print(f"greeting {name}")
    if context.get_remaining_time_in_millis() <= 0:
        raise TimeoutError("a call without a deadline")
    return {
        "message": f"Hello, {name}!",
        "function": context.function_name,
        "request_id": context.aws_request_id,
    }
