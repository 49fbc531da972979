#!/usr/bin/env python3
"""Does an answer depend on what else is in its batch? Asks a running server the same thing alone and among others.

    python3 benches/http_same.py http://127.0.0.1:8080

Prints rows of a Markdown table. Exits with 1 where a request alone has several answers, or where a quality among others
is further from the one alone than `--tolerance`: rounding is far below it, a pass that is read too early far above.
"""

import argparse
import json
import random
import sys
import threading
import urllib.request


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def qualities(answer):
    return [token["quality"] for token in answer["tokens"]]


def furthest(a, b):
    """The largest difference of two lists of qualities, some of which may be null."""
    pairs = [(x, y) for x, y in zip(a, b) if x is not None and y is not None]
    return max((abs(x - y) for x, y in pairs), default=0.0)


class Others:
    """So many streams of requests that are asked again and again."""

    def __init__(self, count, ask):
        self.stop, self.problems = threading.Event(), []
        self.threads = [threading.Thread(target=self._run, args=(ask, index), daemon=True) for index in range(count)]

    def _run(self, ask, index):
        try:
            while not self.stop.is_set():
                ask(index)
        except OSError as problem:
            self.problems.append(problem)

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if self.problems:
            sys.exit(f"a request of the others failed: {self.problems[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--score", type=int, default=900, help="tokens of the text that is scored")
    parser.add_argument("--repeat", type=int, default=50, help="scores of the same text")
    parser.add_argument("--requests", type=int, default=8, help="completions that are compared")
    parser.add_argument("--others", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=126080)
    parser.add_argument("--tolerance", type=float, default=0.05)
    args = parser.parse_args()
    draw = random.Random(0)

    def ids(count):
        return [draw.randrange(args.vocabulary) for _ in range(count)]

    def complete(prompt):
        diffusion = {"steps": args.steps, "block_length": args.tokens, "remasking": "off", "end_of_text": "never"}
        body = {"prompt": prompt, "max_tokens": args.tokens, "diffusion": {**diffusion, "return_quality": True}}
        return post(args.url, "/v1/completions", body)["choices"][0]["quality"]

    text = ids(args.score)
    prompts = [ids(args.prompt) for _ in range(args.requests)]
    other_prompts = [ids(args.prompt) for _ in range(args.others)]

    def score():
        return qualities(post(args.url, "/v1/score", {"text": text}))

    alone = [score() for _ in range(args.repeat)]
    completed_alone = [complete(prompt) for prompt in prompts]
    again_alone = [complete(prompt) for prompt in prompts]
    with Others(args.others, lambda index: complete(other_prompts[index])):
        among = [score() for _ in range(args.repeat)]
        completed_among = [complete(prompt) for prompt in prompts]

    different_alone = len({tuple(scores) for scores in alone})
    different_among = len({tuple(scores) for scores in among})
    judged = sum(quality is not None for quality in alone[0])
    largest = max(furthest(alone[0], scores) for scores in among)
    repeats = sum(a["token_ids"] == b["token_ids"] for a, b in zip(completed_alone, again_alone))
    pairs = list(zip(completed_alone, completed_among))
    equal = [(a, b) for a, b in pairs if a["token_ids"] == b["token_ids"]]
    tokens = [x == y for a, b in pairs for x, y in zip(a["token_ids"], b["token_ids"])]
    print(f"| score of {args.score} tokens, {args.repeat} times alone | {different_alone} different results |")
    print(
        f"| the same among {args.others} others | {different_among} different results; of {judged} qualities, the largest "
        f"difference from alone is {largest:.2g} |"
    )
    print(f"| {len(prompts)} requests twice alone | {repeats} equal answers |")
    print(
        f"| the same among {args.others} others | {len(equal)} equal answers, {sum(tokens)} of {len(tokens)} equal tokens |"
    )
    if different_alone > 1 or repeats < len(prompts) or not largest <= args.tolerance or not judged:
        sys.exit("the same request alone has several answers, or a quality depends on the other requests by more than "
                 f"{args.tolerance}")


if __name__ == "__main__":
    main()
