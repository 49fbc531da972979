#!/usr/bin/env python3
"""Writes `expected.json` for the tests of `src/text/`: chat templates with the texts that
transformers renders from them.

Each file in `shapes/` has the shape of the templates of a family of open models. It is rendered
with every conversation of `CONVERSATIONS`. Each row of `features.py` uses one feature of the
language. Written with Python 3.11, transformers 5.24.0, jinja2 3.1.6:

    python3 tests/data/chat_templates/export.py

With two arguments, it renders the `.jinja` files of a folder and writes them to a file, with which
the same test compares other templates: `REMASK_TEMPLATES=FILE cargo test templates_are_rendered`.
"""

import datetime
import json
import sys
from pathlib import Path

from transformers.utils import chat_template_utils

from features import FEATURES

HERE = Path(__file__).resolve().parent
SHAPES = HERE / "shapes"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
NOW = datetime.datetime(2026, 3, 7, 9, 5, 2)


class Clock(datetime.datetime):
    """Stands still, so that `strftime_now` gives the same text at every export."""

    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def tool(name, description, properties, required=()):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    "Weather of a \"city\" <now> & here's more: é",
    {"city": {"type": "string", "description": "Name of the city"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    ["city"],
)
TIME = tool("get_time", "The time", {"zone": {"type": ["string", "null"]}, "precise": {"type": "boolean", "default": False}})
CALL = [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 3, "exact": True}}}]
CONVERSATIONS = {
    "single": {"messages": [turn("user", "Hi")]},
    "system": {"messages": [turn("system", " Be brief. "), turn("user", "Hi\nthere")]},
    "turns": {"messages": [turn("user", "2+2?"), turn("assistant", "4"), turn("user", "sure?")]},
    "thought": {
        "messages": [
            turn("user", "1+1?"),
            turn("assistant", "<think>\nwell\n</think>\n\n2", reasoning_content="well"),
            turn("user", "<b>'ok'</b> & \"so\" 你好 👩‍👩‍👧"),
        ]
    },
    "empty": {"messages": [turn("user", ""), turn("assistant", "  \n"), turn("user", "\u00a0x\u3000")]},
    "nobody": {"messages": []},
    "tools": {"messages": [turn("system", "Help."), turn("user", "Weather?")], "tools": [WEATHER, TIME]},
    "called": {
        "messages": [
            turn("user", "Weather?"),
            turn("assistant", "", tool_calls=CALL),
            turn("tool", "{\"sky\": \"grey\"}", name="get_weather"),
            turn("tool", "12°"),
            turn("assistant", "Grey."),
            turn("user", "Thanks"),
        ],
        "tools": [WEATHER],
    },
    "order": {"messages": [turn("assistant", "first"), turn("user", "a"), turn("user", "b")]},
}


def render(template, conversation, prompt):
    compiled = chat_template_utils._compile_jinja_template(template)
    try:
        text = compiled.render(
            messages=conversation["messages"], tools=conversation.get("tools"), documents=None,
            add_generation_prompt=prompt, **SPECIAL,
        )
    except Exception as error:
        return {"error": str(error)}
    return {"text": text}


def rows(folder):
    for path in sorted(folder.glob("*.jinja")):
        yield path.stem, path.read_text(), list(CONVERSATIONS)
    if folder == SHAPES:
        for name, template in FEATURES:
            yield name, template, ["called"]


def main():
    folder, out = (Path(word) for word in sys.argv[1:]) if len(sys.argv) > 1 else (SHAPES, HERE / "expected.json")
    table = []
    for name, template, conversations in rows(folder):
        cases = [
            {"conversation": of, "add_generation_prompt": prompt, **render(template, CONVERSATIONS[of], prompt)}
            for of in conversations
            for prompt in ((True, False) if len(conversations) > 1 else (True,))
        ]
        table.append({"name": name, "template": template, "cases": cases})
    content = {"now": NOW.isoformat(), "special": SPECIAL, "conversations": CONVERSATIONS, "templates": table}
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    failed = [(row["name"], case["error"]) for row in table for case in row["cases"] if "error" in case]
    print(len(table), "templates,", sum(len(row["cases"]) for row in table), "texts;", len(failed), "errors")
    for row in sorted(set(failed)):
        print(*row, sep=": ")


if __name__ == "__main__":
    main()
