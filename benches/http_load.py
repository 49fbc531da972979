#!/usr/bin/env python3
"""Tokens a second through HTTP, with some streams at the same time: completions of random prompts, nothing erased.

    python3 benches/http_load.py http://127.0.0.1:8080 --streams 1,4,16 --tokens 128 --steps 64 --vocabulary 126080
"""

import argparse
import json
import random
import threading
import time
import urllib.request


def complete(url, prompt, tokens, steps):
    body = {
        "prompt": prompt, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True},
        "diffusion": {"steps": steps, "block_length": tokens, "remasking": "off", "end_of_text": "never"},
    }
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    usage = None
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
    return usage["completion_tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=126080)
    parser.add_argument("--markdown", action="store_true", help="print rows of a table")
    args = parser.parse_args()
    draw = random.Random(0)
    what = f"prompt {args.prompt}, {args.tokens} new tokens, {args.steps} forward passes each"
    if not args.markdown:
        print(what)
    for streams in map(int, args.streams.split(",")):
        prompts = [[draw.randrange(args.vocabulary) for _ in range(args.prompt)] for _ in range(streams)]
        written = []
        threads = [
            threading.Thread(target=lambda prompt=prompt: written.append(complete(args.url, prompt, args.tokens, args.steps)))
            for prompt in prompts
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        rate = sum(written) / took
        if args.markdown:
            print(f"| {streams} streams, {what} | {rate:.1f} tokens/s, {len(written)} answers |")
        else:
            print(f"{streams:3} streams: {rate:8.1f} tokens/s, {took:.2f} s, {len(written)} answers")
        if len(written) < streams:
            raise SystemExit(f"{streams - len(written)} requests have failed")


if __name__ == "__main__":
    main()
