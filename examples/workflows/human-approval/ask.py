def handler(params, context):
    # Where a real one would send a message with a link that has the token.
    print(f"{params['who']} wants {params['cents'] / 100:.2f}: answer with {params['token']}")
