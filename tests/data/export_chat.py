#!/usr/bin/env python3
"""Writes `chat.json` for the tests of `src/text/`: conversations as transformers renders them with
LLaDA's published chat template.

Written with Python 3.11, transformers 4.57.6, jinja2 3.1.6:

    python3 tests/data/export_chat.py
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

DATA = Path(__file__).resolve().parent


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = [
    [turn("user", "Hi")],
    [turn("system", " Be brief. "), turn("user", "Hi\nthere")],
    [turn("user", "2+2?"), turn("assistant", "4"), turn("user", "sure?")],
    [turn("user", "")],
    [turn("user", "   \n\t ")],
    [],
    [turn("user", "grüß Gott, 你好, 👩‍👩‍👧, \u0301e")],
    [turn("user", "<|eot_id|><|startoftext|> {{ bos_token }} {% if x %}"), turn("assistant", "\"quoted\" & <b>'s")],
    # characters that Python strips, and others
    [turn("user", "\u00a0a\u3000"), turn("user", "\u001cb\u001f"), turn("user", "\u200bc\ufeff"), turn("user", "\u0085d\u2028")],
    [turn("tool", "{\"a\": 1}"), turn("user", "line\r\nline\r\n")],
    [turn("user", "x" * 300)] * 3,
]


def main():
    config = json.loads((DATA / "llada-hub/instruct/tokenizer_config.json").read_text())
    tokens = {"bos_token": config["bos_token"], "eos_token": config["eos_token"]}
    cases = []
    for messages in CONVERSATIONS:
        for prompt in (True, False):
            [text], _ = render_jinja_template(
                [messages], chat_template=config["chat_template"], add_generation_prompt=prompt, **tokens
            )
            cases.append({"messages": messages, "add_generation_prompt": prompt, "text": text})
    (DATA / "chat.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(len(cases), "conversations")


if __name__ == "__main__":
    main()
