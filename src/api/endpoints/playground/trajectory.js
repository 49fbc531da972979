// A trajectory: the first canvas and the events of a stream. What is shown at a time is a pure
// function of it. `t` counts events: 0 is the first canvas, `events.length` the last one.
//
// cell of the first canvas  { kind: 'fixed' | 'given' | 'blank', token, text, quality, likelihood }
// event                     { step, planned, blanks, edits, ms }: `ms` since the request was sent
// edit                      of the server: { kind, at, token, text, was, confidence, quality }
// end                       null, or { kind: 'done' | 'failed' | 'cancelled' | 'broken', .. }

/** A trajectory without a canvas yet. */
export function begin({ mode, path, body, model }) {
  const qualities = new Map();
  return { mode, path, body, model, prefix: '', cells: [], events: [], end: null, qualities };
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
export function eventOf({ step, steps_planned: planned, blanks, edits }, ms) {
  return { step, planned, blanks, edits, ms };
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
        quality: edit.quality,
        ghost: cell.text ?? label(edit.was, null),
        isCorrected: false,
      };
    } else {
      const { token, text, confidence } = edit;
      const isOther = cell.ghost !== undefined && cell.ghost !== label(token, text);
      const isCorrected = edit.kind === 'replace' || isOther;
      state.cells[edit.at] = {
        kind: 'filled',
        token,
        text,
        confidence,
        quality: null,
        isCorrected,
      };
    }
  }
  return Object.assign(state, { t: state.t + 1, edits: event.edits, event });
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

/** What happened to a cell in the first `t` events, oldest first. */
export function historyOf(trajectory, at, t) {
  return trajectory.events
    .slice(0, t)
    .flatMap((event, index) =>
      event.edits
        .filter((edit) => edit.at === at)
        .map((edit) => ({ t: index + 1, step: event.step, edit })),
    );
}

/** Erasures and replacements: when, where, of which token, and what was written in its place. */
export function correctionsOf(trajectory) {
  const texts = trajectory.cells.map((cell) => cell.text);
  const [all, open] = [[], new Map()];
  trajectory.events.forEach((event, index) => {
    for (const { kind, at, token, text, was, quality } of event.edits) {
      if (kind === 'fill') {
        const one = open.get(at);
        if (one) Object.assign(one, { after: label(token, text), filledAt: index + 1 });
        open.delete(at);
      } else {
        const one = { t: index + 1, at, kind, before: texts[at] ?? label(was, null), quality };
        if (kind === 'replace')
          Object.assign(one, { after: label(token, text), filledAt: index + 1 });
        else open.set(at, one);
        all.push(one);
      }
      texts[at] = kind === 'erase' ? null : label(token, text);
    }
  });
  return all;
}

/** A token as people read it. A model without a tokenizer has only numbers. */
export function label(token, text) {
  return text ?? `#${token}`;
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
