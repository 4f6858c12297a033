"""The `Sentences` (3) sentences of `InputText` whose words are the most frequent, in their order."""

import re
from collections import Counter

WORDS = re.compile(r"\w{4,}")  # Shorter ones say little about a text.


def handler(params, context):
    sentences = re.split(r"(?<=[.!?])\s+", params["InputText"].strip())
    frequency = Counter(words(params["InputText"]))

    def weight(number):
        found = words(sentences[number])
        return sum(frequency[word] for word in found) / max(len(found), 1)

    wanted = int(params.get("Sentences", 3))
    best = sorted(range(len(sentences)), key=weight, reverse=True)[:wanted]
    return {"Summary": " ".join(sentences[number] for number in sorted(best))}


def words(text):
    return [word.lower() for word in WORDS.findall(text)]
