// The official SDKs for TypeScript against a model that follows orders: see host/tests/it/scripted.rs.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const url = process.env.CORTEX_URL!;
const claude = new Anthropic({ baseURL: url, apiKey: "unused" });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });
const parameters = {
  type: "object" as const,
  properties: { a: { type: "number" }, b: { type: "number" } },
  required: ["a", "b"],
  additionalProperties: false,
};

function ask(content: Anthropic.MessageParam["content"], more: Partial<Anthropic.MessageCreateParams> = {}) {
  return { model: "m", max_tokens: 64, messages: [{ role: "user" as const, content }], ...more };
}

test("messages: plain and streamed are the same", async () => {
  for (const order of ["hello", "think", "call twice"]) {
    const body = ask(order);
    const plain = await claude.messages.create(body as Anthropic.MessageCreateParamsNonStreaming);
    const streamed = await claude.messages.stream(body).finalMessage();
    assert.deepEqual(streamed.content, plain.content);
    assert.equal(streamed.stop_reason, plain.stop_reason);
    assert.equal(streamed.usage.output_tokens, 2);
  }
});

test("messages: a tool loop", async () => {
  const body = ask("call twice", { tools: [{ name: "add", input_schema: parameters }] });
  for (;;) {
    const message = await claude.messages.stream(body).finalMessage();
    const calls = message.content.filter((block) => block.type === "tool_use");
    if (calls.length === 0) {
      assert.deepEqual(message.content.map((block) => (block.type === "text" ? block.text : "")), ["it is 3 and 7"]);
      return;
    }
    const content = calls.map((call) => {
      const { a, b } = call.input as { a: number; b: number };
      return { type: "tool_result" as const, tool_use_id: call.id, content: String(a + b) };
    });
    body.messages.push({ role: "assistant", content: message.content } as never, { role: "user", content } as never);
  }
});

test("messages: errors have their classes, and what breaks off is one", async () => {
  const impatient = new Anthropic({ baseURL: url, apiKey: "unused", maxRetries: 0 });
  const once = (order: string) => impatient.messages.create(ask(order) as Anthropic.MessageCreateParamsNonStreaming);
  await assert.rejects(once("status 429"), Anthropic.RateLimitError);
  await assert.rejects(once("status 500"), Anthropic.InternalServerError);
  await assert.rejects(once("too long"), (error: Error) => error instanceof Anthropic.BadRequestError && /prompt is too long: 9 tokens > 8 maximum/.test(error.message));
  await assert.rejects(impatient.messages.stream(ask("break")).finalMessage(), Anthropic.APIError);
});

test("messages: a client may leave", async () => {
  const stream = claude.messages.stream(ask("think"));
  for await (const event of stream) {
    assert.equal(event.type, "message_start");
    stream.abort();
    break;
  }
  const counted = await claude.messages.create(ask("hello") as Anthropic.MessageCreateParamsNonStreaming);
  assert.equal(counted.stop_reason, "end_turn");
});

test("responses: plain and streamed are the same", async () => {
  for (const input of ["hello", "think", "call twice"]) {
    const plain = await openai.responses.create({ model: "m", input });
    const stream = openai.responses.stream({ model: "m", input });
    let words = "";
    stream.on("response.output_text.delta", (event) => (words += event.delta));
    const streamed = await stream.finalResponse();
    assert.equal(words, plain.output_text);
    assert.equal(streamed.output_text, plain.output_text);
    assert.deepEqual(streamed.output.map((item) => item.type), plain.output.map((item) => item.type));
    assert.equal(streamed.status, "completed");
  }
});

test("responses: a tool loop", async () => {
  const input: OpenAI.Responses.ResponseInput = [{ role: "user", content: "call twice" }];
  const tools = [{ type: "function" as const, name: "add", parameters, strict: true }];
  for (;;) {
    const response = await openai.responses.stream({ model: "m", input, tools }).finalResponse();
    const calls = response.output.filter((item) => item.type === "function_call");
    if (calls.length === 0) {
      assert.equal(response.output_text, "it is 3 and 7");
      return;
    }
    for (const item of response.output) input.push(item as OpenAI.Responses.ResponseInputItem);
    for (const call of calls) {
      const { a, b } = JSON.parse(call.arguments);
      input.push({ type: "function_call_output", call_id: call.call_id, output: String(a + b) });
    }
  }
});

test("responses: errors have their classes, and what breaks off has failed", async () => {
  const impatient = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
  const once = (input: string) => impatient.responses.create({ model: "m", input });
  await assert.rejects(once("status 429"), OpenAI.RateLimitError);
  await assert.rejects(once("too long"), OpenAI.BadRequestError);
  const kinds: string[] = [];
  for await (const event of await impatient.responses.create({ model: "m", input: "break", stream: true })) kinds.push(event.type);
  assert.equal(kinds.at(-1), "response.failed");
});

test("chat: a streamed call, and a second try", async () => {
  const messages = [{ role: "user" as const, content: "call" }];
  const tools = [{ type: "function" as const, function: { name: "add", parameters } }];
  const completion = await openai.chat.completions.stream({ model: "m", messages, tools }).finalChatCompletion();
  const call = completion.choices[0].message.tool_calls![0];
  assert.deepEqual(call.type === "function" && JSON.parse(call.function.arguments), { a: 1, b: 2 });
  const again = await openai.chat.completions.create({ model: "m", messages: [{ role: "user", content: "status 503 once" }] });
  assert.match(again.choices[0].message.content!, /503 once/);
});
