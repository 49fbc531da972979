// The official openai package for Node. Usage: openai_client.mjs URL
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const ask = { model: "toy", messages: [{ role: "user", content: "Hello" }], max_tokens: 90 };

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.deepEqual(models, ["toy"]);

const whole = await client.chat.completions.create(ask);
assert.equal(whole.choices[0].message.role, "assistant");
assert.ok(whole.choices[0].message.content);

let text = "";
let usage = null;
const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.deepEqual(usage, whole.usage);

const final = await client.chat.completions.stream({ ...ask, max_tokens: 300 }).finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "stop");

const pieces = await client.completions.create({ model: "toy", prompt: "One", max_tokens: 20, stream: true });
let completion = "";
for await (const piece of pieces) completion += piece.choices[0].text;
const plain = await client.completions.create({ model: "toy", prompt: "One", max_tokens: 20 });
assert.equal(completion, plain.choices[0].text);

// going away in the middle ends the stream and nothing else
const left = await client.chat.completions.create({ ...ask, stream: true });
for await (const _ of left) break;
await assert.rejects(client.chat.completions.create({ ...ask, model: "gpt-4" }), { status: 404, code: "model_not_found" });
console.log("openai for Node", VERSION);
