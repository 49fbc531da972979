// Runs a request: reads its stream into a trajectory, to its end or to what stopped it.

import { ApiError, Broken, postJson, stream } from './api.js';
import { answerOf, eventOf, startWith } from './trajectory.js';

const isLast = ({ name, data }) => name === 'done' || name === 'error' || data === '[DONE]';

/**
 * Reads the stream of a trajectory's request. `known` are readings of a text to repair. `onEvent`
 * hears of each event, `onBreak` of a broken connection that is tried again.
 */
export async function run(trajectory, { id, signal, known, onEvent, onBreak }) {
  const begun = performance.now();
  const { path, body, mode, model } = trajectory;
  const answer = completionOf(mode, model);
  try {
    for await (const { name, data: text } of stream(path, body, { id, signal, isLast, onBreak })) {
      if (text === '[DONE]') {
        answerOf(trajectory, answer);
        break;
      }
      const data = JSON.parse(text);
      if (data.error) throw new ApiError(0, data, null);
      const ms = Math.round(performance.now() - begun);
      if (name === 'start') startWith(trajectory, data, known);
      else if (name === 'step') trajectory.events.push(eventOf(data, ms));
      else if (name === 'done') answerOf(trajectory, data);
      else readChunk(trajectory, answer, data, ms);
      onEvent();
    }
  } catch (cause) {
    const isCancelled = signal.aborted || cause.code === 'cancelled';
    const kind = isCancelled ? 'cancelled' : cause instanceof Broken ? 'broken' : 'failed';
    trajectory.end = { kind, message: cause.message };
    if (!isCancelled) throw cause;
  } finally {
    onEvent();
  }
}

/** The answer of a completion, whose text and counts come in chunks. */
function completionOf(mode, model) {
  const isChat = mode === 'chat';
  const choice = {
    index: 0,
    ...(isChat ? { message: { role: 'assistant', content: '' } } : { text: '' }),
  };
  return { object: isChat ? 'chat.completion' : 'text_completion', model, choices: [choice] };
}

/** A chunk of a completion, whose edits and counts are in `diffusion`. */
function readChunk(trajectory, answer, { choices, diffusion }, ms) {
  const [choice] = choices;
  const [own] = answer.choices;
  if ((choice?.index ?? 0) > 0) return; // the page shows the first choice
  if (choice?.text) own.text += choice.text;
  if (choice?.delta?.content) own.message.content += choice.delta.content;
  if (choice?.finish_reason) own.finish_reason = choice.finish_reason;
  if (choice?.quality) own.quality = choice.quality;
  if (diffusion?.canvas_length !== undefined) startWith(trajectory, diffusion);
  if (diffusion?.edits) trajectory.events.push(eventOf(diffusion, ms));
  else if (diffusion) answer.diffusion = diffusion;
}

/** Scores a text: a trajectory without events, whose cells have qualities. */
export async function score(trajectory, { id, signal }) {
  try {
    const answer = await postJson(trajectory.path, trajectory.body, { id, signal });
    trajectory.cells = answer.tokens.map((token) => ({ ...token, kind: 'given' }));
    trajectory.end = { kind: 'done', answer, text: '' };
  } catch (cause) {
    trajectory.end = { kind: signal.aborted ? 'cancelled' : 'failed', message: cause.message };
    if (!signal.aborted) throw cause;
  }
}
