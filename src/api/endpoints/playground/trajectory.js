// A trajectory: the first canvas and the events of a stream. What is shown at a time is a pure
// function of it. `t` counts events: 0 is the first canvas, `events.length` the last one.
//
// cell of the first canvas  { kind: 'fixed' | 'given' | 'blank', token, text, bytes, quality, .. }
// event                     { step, planned, blanks, edits, erasedBy, ms }: `ms` since the request
//                           was sent; `erasedBy` names what erased
// edit                      of the server: { kind, at, token, text, bytes, was, confidence, .. }
// ends                      ids of the tokens that end the answer
// end                       null, or { kind: 'done' | 'failed' | 'cancelled' | 'broken', .. }

/** A trajectory without a canvas yet. */
export function begin({ mode, path, body, model }) {
  const own = { prefix: '', cells: [], ends: [], events: [], end: null, qualities: new Map() };
  return { mode, path, body, model, ...own };
}

/** Takes the first canvas of a `start`. `known` are readings of the cells that are given. */
export function startWith(trajectory, start, known = []) {
  trajectory.cells = cellsOf(start, known);
  trajectory.ends = start.ends ?? [];
}

/** The cells of a `start` event. `known` are readings of the cells that are given. */
export function cellsOf({ canvas_length: length, pinned, given }, known = []) {
  const blank = { kind: 'blank', token: null, text: null };
  const cells = Array.from({ length }, () => ({ ...blank }));
  const put = (kind) => (one) => {
    cells[one.at] = { ...one, kind };
  };
  (given ?? []).forEach(put('given'));
  known.filter(({ at }) => cells[at]?.kind === 'given').forEach(put('given'));
  (pinned ?? []).forEach(put('fixed'));
  return cells;
}

/** The event of a `step`, which came `ms` after the request was sent. */
export function eventOf({ step, steps_planned: planned, blanks, edits, erased_by: names }, ms) {
  return { step, planned, blanks, edits, erasedBy: names ?? [], ms };
}

/** The canvas at time 0. */
export function firstState({ cells }) {
  const counts = { fill: 0, erase: 0, replace: 0 };
  const state = cells.map((cell) => ({
    confidence: null,
    quality: null,
    ...cell,
    isCorrected: false,
  }));
  return { t: 0, cells: state, counts, edits: [], event: null };
}

/** Applies the next event to a state, which it changes. */
export function advance(state, event) {
  for (const edit of event.edits) {
    const cell = state.cells[edit.at];
    state.counts[edit.kind] += 1;
    if (edit.kind === 'erase') {
      state.cells[edit.at] = {
        kind: 'blank',
        token: null,
        text: null,
        confidence: null,
        quality: null,
        erased: { ...spellingOf(cell, edit.was), ...whyOf(edit, event) },
        isCorrected: false,
      };
    } else {
      const { token, text, bytes, confidence } = edit;
      const isOther = cell.erased !== undefined && cell.erased.token !== token;
      const isCorrected = edit.kind === 'replace' || isOther;
      state.cells[edit.at] = {
        kind: 'filled',
        token,
        text,
        bytes,
        confidence,
        quality: null,
        isCorrected,
      };
    }
  }
  return Object.assign(state, { t: state.t + 1, edits: event.edits, event });
}

/** The token of a cell as it is spelled; `was` is its id. */
const spellingOf = ({ text, bytes }, was) => ({ token: was, text: text ?? null, bytes });

/** Why an edit of an event erases: a quality, and the names of what went by it or by another. */
const whyOf = ({ quality }, { erasedBy }) => ({ quality: quality ?? null, by: erasedBy });

/** Whether a cell was written with a token that ends the answer. */
export const isEnd = ({ ends }, { kind, token }) => kind === 'filled' && ends.includes(token);

/** The first cell behind the end of the finished answer; the length of the canvas if none is. */
export function lengthOf(trajectory, state) {
  const isFinished = trajectory.end?.kind === 'done' && state.t === trajectory.events.length;
  const end = isFinished ? state.cells.findIndex((cell) => isEnd(trajectory, cell)) : -1;
  return end < 0 ? state.cells.length : end + 1;
}

/** The canvas after `t` events. */
export function stateAt(trajectory, t) {
  return trajectory.events.slice(0, t).reduce(advance, firstState(trajectory));
}

/** The quality of a cell. What is known of the finished canvas counts at its end. */
export function qualityOf(trajectory, state, at) {
  const isEnd = state.t === trajectory.events.length && trajectory.end !== null;
  return (isEnd ? trajectory.qualities.get(at) : undefined) ?? state.cells[at].quality ?? null;
}

/** Whether a quality is known of a cell of the first canvas: that of a text that was scored. */
export const isJudged = ({ cells }) => cells.some(({ quality }) => (quality ?? null) !== null);

/** What happened to a cell in the first `t` events, oldest first. */
export function historyOf(trajectory, at, t) {
  return trajectory.events
    .slice(0, t)
    .flatMap((event, index) =>
      event.edits
        .filter((edit) => edit.at === at)
        .map((edit) => ({ t: index + 1, step: event.step, by: event.erasedBy, edit })),
    );
}

/** Erasures and replacements: when, where, of which token, why, and what was written instead. */
export function correctionsOf(trajectory) {
  const tokens = [...trajectory.cells];
  const [all, open] = [[], new Map()];
  trajectory.events.forEach((event, index) => {
    for (const { kind, at, token, text, bytes, was, quality } of event.edits) {
      const written = { after: { token, text, bytes }, filledAt: index + 1 };
      if (kind === 'fill') {
        Object.assign(open.get(at) ?? {}, written);
        open.delete(at);
      } else {
        const before = spellingOf(tokens[at], was);
        const one = { t: index + 1, at, kind, before, ...whyOf({ quality }, event) };
        if (kind === 'replace') Object.assign(one, written);
        else open.set(at, one);
        all.push(one);
      }
      tokens[at] = kind === 'erase' ? {} : { token, text, bytes };
    }
  });
  return all;
}

const isShare = (value) => value === null || (value >= 0 && value <= 1);

/**
 * Ends a trajectory with its answer: the text, and the qualities that it has. Those of a choice are
 * of the cells that were written, left to right; those of `tokens`, of a repair, name their cells.
 * Returns false if they are malformed.
 */
export function answerOf(trajectory, answer) {
  const [choice] = answer.choices ?? [];
  const text = answer.text ?? choice?.text ?? choice?.message?.content ?? '';
  trajectory.end = { kind: 'done', answer, text: String(text) };
  const written = trajectory.cells.flatMap((cell, at) => (cell.kind === 'blank' ? [at] : []));
  const listed = choice?.quality?.quality?.map((quality, index) => ({
    at: written[index],
    quality,
  }));
  const qualities = listed ?? answer.tokens ?? [];
  if (!Array.isArray(qualities)) return false;
  for (const { at, quality } of qualities) {
    if (quality === undefined || !isShare(quality)) return false;
    if (quality !== null && trajectory.cells[at]) trajectory.qualities.set(at, quality);
  }
  return true;
}

/** Tokens on the canvas that the model wrote, per second, when event `t` came. */
export function tokensPerSecond(trajectory, state) {
  const ms = trajectory.events[state.t - 1]?.ms ?? 0;
  const written = state.cells.filter((cell) => cell.kind === 'filled').length;
  return ms > 0 ? (written * 1000) / ms : null;
}
