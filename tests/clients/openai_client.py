"""The official openai package: sync, async, streamed, raw, retried.

Usage: openai_client.py URL BUSY_URL"""

import asyncio
import json
import sys

import openai

URL, BUSY = sys.argv[1:]
HELLO = [{"role": "user", "content": "Hello"}]


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def sync():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").object == "model"
    whole = client.chat.completions.create(model="toy", messages=HELLO, max_tokens=90, logprobs=True)
    message, usage = whole.choices[0].message, whole.usage
    assert message.role == "assistant" and message.content and whole.system_fingerprint
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len(whole.choices[0].logprobs.content) == usage.completion_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"diffusion": {"block_length": 8}}}
    chunks = list(client.chat.completions.create(model="toy", messages=HELLO, max_tokens=90, **options))
    blocks = client.chat.completions.create(model="toy", messages=HELLO, max_tokens=90, extra_body=options["extra_body"])
    assert text_of(chunks) == blocks.choices[0].message.content
    assert chunks[-1].usage == blocks.usage
    with client.chat.completions.stream(model="toy", messages=HELLO, max_completion_tokens=300) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop" and final.choices[0].message.content

    drawn = client.completions.create(model="toy", prompt=["One", "Two"], n=2, max_tokens=20, temperature=1, seed=1, echo=True)
    assert [choice.text[:3] for choice in drawn.choices] == ["One", "One", "Two", "Two"]
    pieces = client.completions.create(model="toy", prompt="One", max_tokens=20, stream=True)
    plain = client.completions.create(model="toy", prompt="One", max_tokens=20)
    assert "".join(piece.choices[0].text for piece in pieces) == plain.choices[0].text
    between = client.completions.create(model="toy", prompt="One", suffix="Two", max_tokens=9)
    assert between.choices[0].text and between.usage.completion_tokens == 9

    raw = client.chat.completions.with_raw_response.create(model="toy", messages=HELLO, max_tokens=3)
    assert raw.headers["x-request-id"] and raw.parse().usage.completion_tokens == 3
    pet = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}, "required": ["kind"]}
    tool = {"type": "function", "function": {"name": "Pet", "parameters": pet}}
    for choice, reason in [("required", "tool_calls"), ({"type": "function", "function": {"name": "Pet"}}, "stop")]:
        asked = {"model": "toy", "messages": HELLO, "tools": [tool], "tool_choice": choice}
        called = client.chat.completions.create(**asked).choices[0]
        function = called.message.tool_calls[0].function
        assert function.name == "Pet" and json.loads(function.arguments)["kind"] in ("cat", "dog")
        assert called.finish_reason == reason and called.message.content is None
        with client.chat.completions.stream(**asked) as stream:
            final = stream.get_final_completion().choices[0].message
        assert final.tool_calls[0].function.arguments == function.arguments
    again = client.chat.completions.create(model="toy", messages=[*HELLO, whole.choices[0].message.model_dump(), *HELLO], max_tokens=3)
    assert again.usage.completion_tokens == 3
    echoed = client.completions.create(model="toy", prompt="ab", max_tokens=1, logprobs=1, echo=True).choices[0].logprobs
    assert echoed.tokens[:2] == ["a", "b"] and echoed.token_logprobs[:2] == [None, None]
    for error, status, wrong in [
        (openai.BadRequestError, 400, {"messages": HELLO, "tools": [tool]}),
        (openai.NotFoundError, 404, {"messages": HELLO, "model": "gpt-4"}),
    ]:
        try:
            client.chat.completions.create(**{"model": "toy", **wrong})
        except error as refused:
            assert refused.status_code == status and refused.message
        else:
            raise AssertionError(wrong)


async def at_once():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none") as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="toy", messages=HELLO, max_tokens=60) for _ in range(16))
        )
        assert len({answer.choices[0].message.content for answer in answers}) == 1
        chunks = await client.chat.completions.create(model="toy", messages=HELLO, max_tokens=60, stream=True)
        assert text_of([chunk async for chunk in chunks]) == answers[0].choices[0].message.content


async def retried():
    """One place and no queue: all requests but one are answered 429."""
    ask = {"model": "toy", "prompt": "One", "max_tokens": 1000}
    async with openai.AsyncOpenAI(base_url=f"{BUSY}/v1", api_key="none", max_retries=0) as impatient:
        answers = await asyncio.gather(*(impatient.completions.create(**ask) for _ in range(6)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert refused and all(int(error.response.headers["retry-after"]) >= 1 for error in refused), answers
    async with openai.AsyncOpenAI(base_url=f"{BUSY}/v1", api_key="none", max_retries=20) as patient:
        answers = await asyncio.gather(*(patient.completions.create(**ask) for _ in range(4)))
    assert len({answer.choices[0].text for answer in answers}) == 1


sync()
asyncio.run(at_once())
asyncio.run(retried())
print("openai", openai.__version__)
