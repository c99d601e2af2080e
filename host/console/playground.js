// A conversation with any model, in any dialect, and the same request as code.

import { h, fill, notice, secs, Cards } from "./dom.js";
import { all, one, headers, events, state } from "./feed.js";

export const title = "Playground";

/** Each dialect's request for a conversation, and what of its events is text. */
const DIALECTS = {
  openai: {
    name: "OpenAI chat completions", path: "/v1/chat/completions", needs: null,
    body: ({ model, system, turns, temperature, top_p, max_tokens }) => ({
      model, stream: true, temperature, top_p, max_tokens, stream_options: { include_usage: true },
      messages: [...(system ? [{ role: "system", content: system }] : []), ...turns.map(({ role, text, image }) => ({
        role, content: image ? [{ type: "text", text }, { type: "image_url", image_url: { url: image } }] : text }))],
    }),
    piece: (data) => ({ text: data.choices?.[0]?.delta?.content, thought: data.choices?.[0]?.delta?.reasoning_content, tokens: data.usage?.completion_tokens, error: data.error?.message }),
  },
  anthropic: {
    name: "Anthropic messages", path: "/v1/messages", needs: "anthropic",
    body: ({ model, system, turns, temperature, top_p, max_tokens }) => ({
      model, stream: true, temperature, top_p, max_tokens: max_tokens ?? 1024, system: system || undefined,
      messages: turns.map(({ role, text, image }) => ({ role, content: image
        ? [{ type: "image", source: { type: "base64", media_type: image.slice(5, image.indexOf(";")), data: image.slice(image.indexOf(",") + 1) } }, { type: "text", text }] : text })),
    }),
    piece: (data) => ({ text: data.delta?.text, thought: data.delta?.thinking, tokens: data.usage?.output_tokens, error: data.error?.message }),
  },
  responses: {
    name: "OpenAI responses", path: "/v1/responses", needs: "responses",
    body: ({ model, system, turns, temperature, top_p, max_tokens }) => ({
      model, stream: true, temperature, top_p, max_output_tokens: max_tokens, instructions: system || undefined,
      input: turns.map(({ role, text, image }) => ({ role, content: image ? [{ type: "input_text", text }, { type: "input_image", image_url: image }] : text })),
    }),
    piece: (data) => ({
      text: data.type === "response.output_text.delta" ? data.delta : undefined, thought: data.type === "response.reasoning_text.delta" ? data.delta : undefined,
      tokens: data.response?.usage?.output_tokens, error: data.type === "error" ? data.message : data.response?.error?.message }),
  },
};

/** What is said and set stays while other views are looked at. */
const kept = { turns: [], fields: {}, last: 0 };

export function mount(main, { rest }) {
  const pick = h("select", { id: "model", onchange: update });
  const dialect = h("select", { id: "dialect" });
  const system = h("textarea", { id: "system", rows: 2 });
  const number = (id, from, to, step) => h("input", { id, type: "number", min: from, max: to, step, placeholder: "default" });
  const [temperature, top_p, max_tokens] = [number("temperature", 0, 2, 0.1), number("top_p", 0, 1, 0.05), number("max_tokens", 1, 1000000, 1)];
  const image = h("input", { id: "image", type: "file", accept: "image/*" });
  const prompt = h("textarea", { id: "prompt", rows: 3, required: true, placeholder: "Say something", onkeydown: (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  } });
  const talk = h("div.talk", { role: "log", "aria-live": "polite", "aria-label": "Conversation" });
  const send = h("button.primary", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", disabled: true, onclick: () => control?.abort() }, "Stop");
  const clear = h("button", { type: "button", onclick: () => { kept.turns = []; draw(); } }, "Clear");
  const seeing = h("div.field", null, h("label", { for: "image" }, "Image"), image);
  const code = h("details.code", { ontoggle: () => show() }, h("summary", null, "As code"));
  const field = (label, input) => h("div.field", null, h("label", { for: input.id }, label), input);
  const form = h("form.play", { onsubmit: (event) => { event.preventDefault(); ask(); } },
    h("div.bar", null, field("Model", pick), field("Dialect", dialect), field("Temperature", temperature), field("Top p", top_p), field("Max tokens", max_tokens), seeing),
    field("Instructions", system), talk, field("Message", prompt), h("div.actions", null, send, stop, clear), code);
  main.append(h("h1", null, title), state.me?.roles.includes("operator") ? form : h("p.empty", null, `The key ${state.me.name} does not have the role operator, which talking to models takes.`));
  let control;
  let names = "";
  const fields = { dialect, system, temperature, top_p, max_tokens, prompt };
  for (const name of ["system", "temperature", "top_p", "max_tokens", "prompt"]) fields[name].value = kept.fields[name] ?? "";
  const turns = new Cards(talk);

  const asked = (turns) => {
    const value = (input) => (input.value === "" ? undefined : Number(input.value));
    return { model: pick.value, system: system.value.trim(), turns, temperature: value(temperature), top_p: value(top_p), max_tokens: value(max_tokens) };
  };
  const spoken = () => DIALECTS[dialect.value] ?? DIALECTS.openai;

  async function ask() {
    if (send.disabled) return;
    send.disabled = true;
    const turn = { role: "user", text: prompt.value, image: image.files[0] && !seeing.hidden ? await read(image.files[0]) : undefined };
    const answer = { role: "assistant", text: "", thought: "" };
    const { path, body, piece } = spoken();
    kept.turns.push(turn);
    const sent = JSON.stringify(body(asked(answered(kept.turns))));
    kept.turns.push(answer);
    [prompt.value, image.value] = ["", ""];
    [send.disabled, stop.disabled, control] = [true, false, new AbortController()];
    draw();
    const begun = performance.now();
    let first = null;
    let pieces = 0;
    let tokens;
    try {
      const said = await fetch(`/admin/try${path}`, { method: "POST", body: sent, signal: control.signal, headers: headers({ "content-type": "application/json", "anthropic-version": "2023-06-01" }) });
      answer.id = said.headers.get("x-request-id");
      if (!said.ok) {
        const told = await said.json().catch(() => ({}));
        throw new Error(told.error?.message ?? `${said.status} ${said.statusText}`);
      }
      for await (const event of events(said.body)) {
        if (event.data === "[DONE]") break;
        const part = piece(JSON.parse(event.data));
        if (part.error) throw new Error(part.error);
        if (part.text || part.thought) {
          first ??= performance.now();
          pieces += 1;
        }
        answer.text += part.text ?? "";
        answer.thought += part.thought ?? "";
        tokens = part.tokens || tokens;
        draw();
      }
      const told = tokens || pieces;
      const took = (performance.now() - (first ?? begun)) / 1000;
      answer.speed = `first token after ${secs(((first ?? performance.now()) - begun) / 1000)}, ${told} tokens, ${took > 0 && told > 1 ? ((told - 1) / took).toFixed(1) : "–"} tok/s`;
    } catch (error) {
      answer.error = error.name === "AbortError" ? "stopped" : error.message;
    }
    [send.disabled, stop.disabled] = [false, true];
    draw();
    prompt.focus();
  }

  function draw() {
    const end = talk.scrollTop + talk.clientHeight >= talk.scrollHeight - 20;
    // Only what was said since is drawn again: an image is not read anew with every token.
    turns.show(kept.turns, (turn) => turn.number ??= kept.last++, (turn) => h(`div.turn.${turn.role}`, { "data-key": turn.number },
      turn.image && h("img", { src: turn.image, alt: "the image that was sent" }),
      turn.thought && h("details", null, h("summary", null, "Thoughts"), h("p.text", null, turn.thought)),
      h("p.text", null, turn.text), turn.error && h("p.error", { role: "alert" }, turn.error),
      turn.speed && h("p.facts", { "data-speed": true }, turn.speed, turn.id && h("a", { href: `#traffic/${turn.id}` }, " its story"))),
    (turn) => `${turn.text.length} ${turn.thought?.length} ${turn.error} ${turn.speed}`);
    if (end) talk.scrollTop = talk.scrollHeight;
    show();
  }

  // The request as others would send it, to the address where clients are served.
  function show() {
    if (!code.open) return;
    const about = one("gateway");
    const [, port] = /:(\d+)$/.exec(about?.listen ?? "") ?? [];
    const base = `http${about?.tls ? "s" : ""}://${location.hostname}${port ? `:${port}` : ""}`;
    const turns = answered(kept.turns);
    const { path, body } = spoken();
    const json = JSON.stringify(body(asked(turns.length ? turns : [{ role: "user", text: prompt.value || "Hello" }])), null, 2);
    const parts = [["curl", curl(base, path, json, about?.keys)], ["Python", python(dialect.value, base, json, about?.keys)],
      ["TypeScript", typescript(dialect.value, base, json, about?.keys)]];
    fill(code, h("summary", null, "As code"), parts.map(([name, text]) => h("div", { "data-key": name }, h("h3", null, name), h("pre", null, text))));
  }

  function update() {
    const models = all("model");
    const now = models.map((model) => `${model.id}${model.on.some((at) => at.status === "loaded") ? "*" : ""}`).join();
    if (now !== names) {
      const chosen = pick.value || rest || kept.fields.model;
      pick.replaceChildren(...models.map((model) => h("option", { value: model.id, selected: model.id === chosen },
        `${model.id}${model.on.some((at) => at.status === "loaded") ? "" : " (to be loaded)"}`)));
      names = now;
    }
    const there = new Set(all("policy").filter((policy) => policy.serving).map((policy) => policy.name));
    const able = Object.entries(DIALECTS).filter(([, { needs }]) => !needs || there.has(needs));
    if (able.length !== dialect.options.length) {
      const chosen = dialect.value || kept.fields.dialect;
      dialect.replaceChildren(...able.map(([id, { name }]) => h("option", { value: id, selected: id === chosen }, name)));
    }
    seeing.hidden = !(one(`model/${pick.value}`)?.capabilities ?? []).some((what) => what === "vision" || what === "image");
  }
  draw();
  const end = () => {
    control?.abort();
    kept.fields = Object.fromEntries(Object.entries({ ...fields, model: pick }).map(([name, field]) => [name, field.value]));
  };
  return { update, end };
}

/** Without questions that came to nothing, and their answers. */
const answered = (turns) =>
  turns.filter((turn, place) => (turn.role === "user" ? !turns[place + 1]?.error && (place + 1 === turns.length || turns[place + 1].text) : !turn.error && turn.text));

const read = (file) =>
  new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => {
      notice(`${file.name} cannot be read`, "error");
      resolve(undefined);
    };
    reader.readAsDataURL(file);
  });

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const curl = (base, path, json, keys) =>
  [`curl -N ${base}${path} \\`, "  -H 'content-type: application/json' \\", ...(keys ? ["  -H \"authorization: Bearer $CORTEX_KEY\" \\"] : []), `  -d ${quoted(json)}`].join("\n");

function python(dialect, base, json, keys) {
  const { stream, stream_options, ...rest } = JSON.parse(json);
  // Anthropic's SDK has no words of its own for these any more.
  const { temperature, top_p, ...known } = rest;
  if (dialect === "anthropic" && (temperature ?? top_p) !== undefined) known.extra_body = { temperature, top_p };
  const args = Object.entries(dialect === "anthropic" ? known : rest).map(([name, value]) => `    ${name}=${literal(value)},`).join("\n");
  const secret = keys ? "os.environ[\"CORTEX_KEY\"]" : "\"none\"";
  const os = keys ? "import os\n" : "";
  if (dialect === "anthropic") {
    return `${os}import anthropic\n\nclient = anthropic.Anthropic(base_url="${base}", api_key=${secret})\nwith client.messages.stream(\n${args}\n) as stream:\n    for text in stream.text_stream:\n        print(text, end="", flush=True)`;
  }
  const client = `${os}import openai\n\nclient = openai.OpenAI(base_url="${base}/v1", api_key=${secret})\n`;
  if (dialect === "responses") {
    return `${client}for event in client.responses.create(\n${args}\n    stream=True,\n):\n    if event.type == "response.output_text.delta":\n        print(event.delta, end="", flush=True)`;
  }
  return `${client}for chunk in client.chat.completions.create(\n${args}\n    stream=True,\n):\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)`;
}

function typescript(dialect, base, json, keys) {
  const { stream, stream_options, ...rest } = JSON.parse(json);
  const args = JSON.stringify(rest, null, 2).slice(1, -1).trim();
  const secret = keys ? "process.env.CORTEX_KEY" : "\"none\"";
  if (dialect === "anthropic") {
    return `import Anthropic from "@anthropic-ai/sdk";\n\nconst client = new Anthropic({ baseURL: "${base}", apiKey: ${secret} });\nconst stream = client.messages.stream({\n  ${args},\n});\nstream.on("text", (text) => process.stdout.write(text));\nawait stream.finalMessage();`;
  }
  const client = `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}/v1", apiKey: ${secret} });\n`;
  if (dialect === "responses") {
    return `${client}for await (const event of await client.responses.create({\n  ${args},\n  stream: true,\n})) {\n  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);\n}`;
  }
  return `${client}for await (const chunk of await client.chat.completions.create({\n  ${args},\n  stream: true,\n})) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n}`;
}

// JSON is Python but for three words.
const literal = (value) =>
  Array.isArray(value) ? `[${value.map(literal).join(", ")}]`
    : value && typeof value === "object" ? `{${Object.entries(value).filter(([, entry]) => entry !== undefined).map(([name, entry]) => `${JSON.stringify(name)}: ${literal(entry)}`).join(", ")}}`
      : value === true ? "True" : value === false ? "False" : value === null ? "None" : JSON.stringify(value);
