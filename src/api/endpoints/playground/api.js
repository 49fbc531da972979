// Calls of the server: requests, errors, and streams that go on after a broken connection.

/** How often, and after which pauses in ms, a broken stream is asked for again. */
const RETRIES = [300, 700, 1500, 2500, 4000];

let key = '';

/** The API key of all further requests; empty for none. */
export function setKey(value) {
  key = value.trim();
}

export const hasKey = () => key !== '';

/** An error of the server, in its own words. */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = body?.error ?? {};
    super(error.message ?? `the server answered with status ${status}`);
    Object.assign(this, {
      status,
      code: error.code ?? null,
      param: error.param ?? null,
      retryAfter,
    });
  }
}

/** A server that is not there. */
export class Unreachable extends Error {}

/** A stream that ended before its last event. */
export class Broken extends Error {}

/** An id for a request. `crypto.randomUUID` is missing on pages over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `play-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

async function ask(path, { method = 'GET', body, id, last, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (key) headers.Authorization = `Bearer ${key}`;
  if (id) headers['X-Request-Id'] = id;
  if (last) headers['Last-Event-ID'] = last;
  const text = body === undefined ? undefined : JSON.stringify(body);
  const asked = { method, headers, body: text, signal, cache: 'no-store' };
  const response = await fetch(path, asked).catch((cause) => {
    if (!(cause instanceof TypeError)) throw cause; // it was cancelled
    throw new Unreachable(`The server cannot be reached (${cause.message}).`);
  });
  if (response.ok) return response;
  const seconds = Number.parseInt(response.headers.get('Retry-After') ?? '', 10);
  const answer = await response.json().catch(() => null);
  throw new ApiError(response.status, answer, Number.isFinite(seconds) ? seconds : null);
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function postJson(path, body, options = {}) {
  return (await ask(path, { ...options, method: 'POST', body })).json();
}

/** Asks the server to stop a request. One that has ended by now is no error. */
export async function cancel(id) {
  await ask(`v1/requests/${id}`, { method: 'DELETE' }).catch(() => null);
}

/** The events of a response: their id, name and data. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const event = { id: null, name: 'message', data: '' };
      for (const line of part.split(/\r?\n/)) {
        const [, field, text] = /^(\w*):? ?(.*)$/s.exec(line) ?? [];
        if (field === 'id') event.id = text;
        if (field === 'event') event.name = text;
        if (field === 'data') event.data += event.data ? `\n${text}` : text;
      }
      if (event.data) yield event;
    }
  }
}

const pause = (time) =>
  new Promise((resolve) => {
    setTimeout(resolve, time);
  });

/**
 * Sends a request and yields the events of its stream. `isLast` tells the event with which the
 * stream is complete. A stream with ids is read on after its last event when its connection
 * breaks, by `GET /v1/requests/{id}`; `onBreak` hears of it.
 */
export async function* stream(path, body, { id, signal, isLast, onBreak }) {
  let last = null;
  let response = await ask(path, { method: 'POST', body, id, signal });
  const isResumable = path !== 'v1/completions' && path !== 'v1/chat/completions';
  for (let attempt = 0; ;) {
    try {
      for await (const event of eventsOf(response)) {
        attempt = 0;
        last = event.id ?? last;
        yield event;
        if (isLast(event)) return;
      }
    } catch (cause) {
      if (signal.aborted || cause instanceof ApiError) throw cause;
    }
    if (!isResumable) {
      throw new Broken('The connection broke. Streams of completions cannot be read on.');
    }
    response = null;
    while (!response) {
      if (attempt >= RETRIES.length)
        throw new Broken('The connection broke, and the server is away.');
      onBreak(attempt + 1);
      await pause(RETRIES[attempt]);
      attempt += 1;
      try {
        response = await ask(`v1/requests/${id}`, { last, signal });
      } catch (cause) {
        if (signal.aborted) throw cause;
        if (cause instanceof ApiError && cause.status !== 503) {
          throw new Broken(`The connection broke, and the server cannot go on: ${cause.message}`);
        }
      }
    }
  }
}
