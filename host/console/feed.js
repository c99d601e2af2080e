// What the gateway says of itself: everything once, then what changes. A connection that is lost is made anew.

/** Milliseconds without a word after which the connection counts as lost: the gateway speaks every ten seconds. */
const SILENCE = 25_000;
/** Seconds of samples that the charts have. */
const SAMPLES = 600;

const KEY = "cortex-admin-key";

export const state = { items: new Map(), samples: [], me: null, live: false, since: 0, skew: 0 };

/** The gateway's clock, in milliseconds since 1970: this machine's may be wrong. */
export const now = () => Date.now() - state.skew;
const listeners = new Set();

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export const headers = (more = {}) => (key.get() ? { ...more, authorization: `Bearer ${key.get()}` } : more);

/** Calls `then` after every change; gives back what ends it. */
export function watch(then) {
  listeners.add(then);
  return () => listeners.delete(then);
}

let told = false;
function tell() {
  if (told) return;
  told = true;
  requestAnimationFrame(() => {
    told = false;
    listeners.forEach((then) => then());
  });
}

/** Entries of a kind, by name: `all("node")`. */
export function all(kind) {
  const found = [];
  for (const [name, value] of state.items) {
    if (name.startsWith(`${kind}/`)) found.push(value);
  }
  return found;
}

export const one = (name) => state.items.get(name);

/** Asks the admin API; an error's message is the gateway's own. */
export async function call(method, path, body) {
  const sent = body instanceof Blob ? body : body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(), body: sent });
  } catch {
    throw new Error("the gateway does not answer");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw Object.assign(new Error(said.error?.message ?? `${answer.status} ${answer.statusText}`), { status: answer.status, said });
  }
  return said;
}

/** Until it is told to end. `lost` is called with the reason when it is over for good. */
export async function follow(lost) {
  let wait = 500;
  for (;;) {
    try {
      await stream();
      wait = 500;
    } catch (error) {
      if (error.status === 401 || error.status === 403) return lost(error.message);
    }
    state.live = false;
    tell();
    await new Promise((resume) => setTimeout(resume, wait));
    wait = Math.min(wait * 1.7, 5000);
  }
}

async function stream() {
  const control = new AbortController();
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => control.abort(), SILENCE);
  };
  heard();
  try {
    const answer = await fetch("/admin/events", { headers: headers(), signal: control.signal });
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({}));
      throw Object.assign(new Error(said.error?.message ?? answer.statusText), { status: answer.status });
    }
    for await (const event of events(answer.body, heard)) {
      if (event.name === "over") throw Object.assign(new Error("this admin key is not in force any more"), { status: 401 });
      take(event.name, JSON.parse(event.data));
    }
  } finally {
    clearTimeout(silence);
    control.abort();
  }
}

function take(name, data) {
  if (name === "all") {
    state.items = new Map(Object.entries(data.set));
    state.samples = data.samples;
    state.since = Date.now();
  } else {
    for (const [key, value] of Object.entries(data.set)) state.items.set(key, value);
    for (const key of data.gone) state.items.delete(key);
    const sample = data.set.sample;
    if (sample && sample.at_ms !== state.samples.at(-1)?.at_ms) state.samples.push(sample);
    if (state.samples.length > SAMPLES) state.samples.splice(0, state.samples.length - SAMPLES);
  }
  // A sample is at most a second old; what is less than two apart is the way here.
  const at = data.set.sample?.at_ms;
  if (at) state.skew = Math.abs(Date.now() - at) < 2000 ? 0 : Date.now() - at;
  state.live = true;
  tell();
}

/** Server-sent events of a body, `{name, data}` each. */
export async function* events(body, heard = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    rest += value;
    for (;;) {
      const end = /\r?\n\r?\n/.exec(rest);
      if (!end) break;
      const event = { name: "message", data: [] };
      for (const line of rest.slice(0, end.index).split(/\r?\n/)) {
        if (line.startsWith("event:")) event.name = line.slice(6).trim();
        else if (line.startsWith("data:")) event.data.push(line.slice(5).replace(/^ /, ""));
      }
      rest = rest.slice(end.index + end[0].length);
      if (event.data.length) yield { name: event.name, data: event.data.join("\n") };
    }
  }
}
