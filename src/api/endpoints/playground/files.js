// Trajectories as files of JSON Lines: docs/api.md, “Trajectory files”. Two trajectories that were
// compared follow each other in one file.

import { answerOf, begin, eventOf, startWith } from './trajectory.js';

const CELLS_MAX = 1_000_000;

/** The lines of one trajectory. `ms` of a step and what `request` says are members of our own. */
function linesOf({ mode, path, body, model, prefix, cells, ends, events, end }) {
  const of = (kind) =>
    cells.flatMap(({ kind: its, token, text, bytes, quality, likelihood }, at) =>
      its === kind ? [{ at, token, text, bytes, quality, likelihood }] : [],
    );
  const lines = [
    { request: { path: `/${path}`, body, mode, model, prefix } },
    { canvas_length: cells.length, pinned: of('fixed'), given: of('given'), ends },
    ...events.map(({ step, planned, blanks, edits, erasedBy, ms }) => {
      return { index: 0, step, steps_planned: planned, blanks, edits, erased_by: erasedBy, ms };
    }),
  ];
  if (end?.kind === 'done') lines.push(end.answer);
  else if (end) lines.push({ error: { message: end.message ?? '', code: end.kind } });
  return lines;
}

export function exported(trajectories) {
  const lines = trajectories.flatMap(linesOf);
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const isNone = (value) => value === null || value === undefined;
const isText = (value) => isNone(value) || typeof value === 'string';
const isShare = (value) => isNone(value) || (value >= 0 && value <= 1);
const isWhole = (value) => Number.isInteger(value) && value >= 0;
const isListOf = (value, is) => isNone(value) || (Array.isArray(value) && value.every(is));
const isBytes = (value) => isListOf(value, (byte) => isWhole(byte) && byte < 256);

/** What is wrong with a cell of a first canvas; null if nothing is. */
const isCell = (length) => (one) =>
  isObject(one) &&
  isWhole(one.at) &&
  one.at < length &&
  isWhole(one.token) &&
  isText(one.text) &&
  isBytes(one.bytes) &&
  isShare(one.quality);

/** Checks a `start`, since files may come from anywhere. Returns what is wrong with it. */
function faultOfStart({ canvas_length: length, pinned, given, ends }) {
  if (!isWhole(length) || length > CELLS_MAX)
    return `canvas_length is no number up to ${CELLS_MAX}`;
  const isEach = [pinned, given].every((list) => isListOf(list, isCell(length)));
  if (!isEach) return 'a cell has no token, or is outside the canvas';
  return isListOf(ends, isWhole) ? null : 'ends is no list of token ids';
}

/** Checks an edit against the cells as they are, and applies it to their tokens. */
function faultOfEdit(edit, cells, tokens) {
  if (!isObject(edit) || !isWhole(edit.at) || edit.at >= cells.length) {
    return 'an edit is outside the canvas';
  }
  const { at, kind, token, was, text, bytes, confidence, quality } = edit;
  const isWell = isText(text) && isBytes(bytes) && isShare(confidence) && isShare(quality);
  if (!isWell) return `the edit of cell ${at} is malformed`;
  if (cells[at].kind === 'fixed') return `an edit changes cell ${at}, which is pinned`;
  if (kind === 'fill' && tokens[at] !== null) return `cell ${at} is filled twice`;
  if (kind !== 'fill' && tokens[at] !== was) return `cell ${at} has not the token ${was}`;
  if (kind !== 'erase' && !isWhole(token)) return `an edit of cell ${at} has no token`;
  if (!['fill', 'erase', 'replace'].includes(kind))
    return `cell ${at} has an edit of no known kind`;
  tokens[at] = kind === 'erase' ? null : token;
  return null;
}

function started(line, trajectory) {
  const why = faultOfStart(line);
  if (why) return why;
  startWith(trajectory, line);
  trajectory.tokens = trajectory.cells.map(({ token }) => token);
  return null;
}

function stepped(line, { cells, events, tokens }) {
  if (!isWhole(line.step) || !Array.isArray(line.edits)) return 'a step has no number or no edits';
  if (!isListOf(line.erased_by, (name) => typeof name === 'string'))
    return 'erased_by is no list of names';
  for (const edit of line.edits) {
    const why = faultOfEdit(edit, cells, tokens);
    if (why) return why;
  }
  events.push(eventOf(line, Number.isFinite(line.ms) ? line.ms : 0));
  return null;
}

function requested({ request }) {
  const { path, body, mode, model, prefix } = isObject(request) ? request : {};
  const word = (value) => (typeof value === 'string' ? value : '');
  return {
    ...begin({
      mode: word(mode),
      path: word(path).replace(/^\//, ''),
      body: isObject(body) ? body : {},
      model: word(model),
    }),
    prefix: word(prefix),
  };
}

/** Reads a line into the trajectories, the last of which it belongs to. Returns what is wrong. */
function read(line, trajectories) {
  const last = trajectories.at(-1);
  if ('request' in line) {
    trajectories.push(requested(line));
    return null;
  }
  if ('canvas_length' in line) {
    if (!last || last.tokens) trajectories.push(requested({}));
    return started(line, trajectories.at(-1));
  }
  if (!last?.tokens) return 'no start came before it';
  if (last.end) return 'the trajectory has ended before it';
  if ('edits' in line && 'step' in line) return stepped(line, last);
  if ('error' in line) {
    const { message, code } = isObject(line.error) ? line.error : {};
    last.end = {
      kind: code === 'cancelled' ? 'cancelled' : 'failed',
      message: String(message ?? ''),
    };
    return null;
  }
  if (!('object' in line)) return 'it is none of request, start, step, done and error';
  if (!last.mode && ['repair', 'score'].includes(line.object)) last.mode = line.object;
  const isEach = [line.edits, line.tokens].every((list) => isListOf(list, isObject));
  if (!isEach || !isListOf(line.doubtful, isWhole)) return 'its lists are malformed';
  return answerOf(last, line) ? null : 'the qualities of its answer are malformed';
}

/** The same for a line whose members may be of any kind. */
function tried(line, trajectories) {
  try {
    return read(line, trajectories);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    return `its members are not of the kinds that they have (${cause.message})`;
  }
}

/** The one or two trajectories of a file. Throws an error that names the line. */
export function imported(text) {
  const trajectories = [];
  text.split('\n').forEach((row, index) => {
    if (!row.trim()) return;
    let line = null;
    try {
      line = JSON.parse(row);
    } catch {
      // said below
    }
    const why = isObject(line) ? tried(line, trajectories) : 'it is no JSON object';
    if (why) throw new Error(`Line ${index + 1} is no line of a trajectory: ${why}.`);
  });
  const whole = trajectories.filter(({ tokens }) => tokens);
  if (!whole.length) throw new Error('The file has no trajectory: no line has a canvas_length.');
  return whole.slice(0, 2);
}
