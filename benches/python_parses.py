#!/usr/bin/env python3
"""A --check for `remask eval compare`: whether Python's parser accepts the text on standard input.

    remask eval compare .. --check 'python3 benches/python_parses.py'

An answer may break off at its last token, so a text is also right without its last line.
"""

import ast
import sys


def parses(text):
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError):
        return False


def main():
    text = sys.stdin.read()
    whole_lines = "".join(text.splitlines(keepends=True)[:-1])
    sys.exit(0 if parses(text) or parses(whole_lines) else 1)


if __name__ == "__main__":
    main()
