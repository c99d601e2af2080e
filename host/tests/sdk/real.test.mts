// The official SDKs for TypeScript against a running pair. CORTEX_URL and CORTEX_MODEL say where and what.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const url = process.env.CORTEX_URL!;
const model = process.env.CORTEX_MODEL!;
const claude = new Anthropic({ baseURL: url, apiKey: "unused" });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });
const messages = [{ role: "user" as const, content: "Count from 1 to 9 with commas." }];

test("messages: plain, streamed, counted, aborted, refused", async () => {
  const body = { model, max_tokens: 16, temperature: 0, messages };
  const plain = await claude.messages.create(body);
  const streamed = await claude.messages.stream(body).finalMessage();
  assert.deepEqual(streamed.content, plain.content);
  assert.ok(plain.content[0].type === "text" && plain.content[0].text.trim());
  const counted = await claude.messages.countTokens({ model, messages });
  assert.equal(counted.input_tokens, plain.usage.input_tokens + (plain.usage.cache_read_input_tokens ?? 0));
  const long = claude.messages.stream({ ...body, max_tokens: 900 });
  for await (const event of long) {
    if (event.type === "content_block_delta") {
      long.abort();
      break;
    }
  }
  await assert.rejects(claude.messages.create({ ...body, model: "none" }), Anthropic.NotFoundError);
  const ids = (await claude.models.list()).data.map((one) => one.id);
  assert.ok(ids.includes(model));
});

test("responses: plain, streamed, counted, refused", async () => {
  const body = { model, input: messages[0].content, temperature: 0, max_output_tokens: 16 };
  const plain = await openai.responses.create(body);
  const streamed = await openai.responses.stream(body).finalResponse();
  assert.equal(streamed.output_text, plain.output_text);
  assert.ok(plain.output_text.trim());
  const counted = await openai.responses.inputTokens.count({ model, input: body.input });
  assert.equal(counted.input_tokens, plain.usage!.input_tokens);
  await assert.rejects(openai.responses.create({ ...body, model: "none" }), OpenAI.NotFoundError);
});

test("chat: plain and streamed", async () => {
  const body = { model, messages, temperature: 0, max_tokens: 16 };
  const plain = await openai.chat.completions.create(body);
  const streamed = await openai.chat.completions.stream(body).finalChatCompletion();
  assert.equal(streamed.choices[0].message.content, plain.choices[0].message.content);
});

test("tools are run by the SDK's own loop", async () => {
  let asked: unknown;
  const weather = {
    type: "function" as const,
    function: {
      name: "weather", description: "d", parse: JSON.parse,
      function: (input: { city: string }) => { asked = input; return "sunny"; },
      parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
    },
  };
  const runner = openai.chat.completions.runTools({
    model, messages: [{ role: "user", content: "Weather in Rome?" }], tools: [weather],
    tool_choice: { type: "function", function: { name: "weather" } }, max_tokens: 120, temperature: 0,
  });
  await runner.done();
  assert.equal(typeof (asked as { city: string }).city, "string");
});
