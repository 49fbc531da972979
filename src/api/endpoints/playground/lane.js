// A lane: one trajectory on its canvas, with its counters and its corrections.

import { CanvasView } from './canvas.js';
import { byWhom } from './causes.js';
import { counted, el, setText } from './dom.js';
import { label, said } from './letters.js';
import { percent } from './shade.js';
import { isSolved, place } from './sudoku.js';
import { advance, correctionsOf, firstState, isJudged, tokensPerSecond } from './trajectory.js';

const COUNTERS = [
  ['steps', 'steps'],
  ['passes', 'forward passes'],
  ['fill', 'written'],
  ['erase', 'erased'],
  ['replace', 'replaced'],
  ['speed', 'tokens/s'],
];

export class Lane {
  /** `onPick` hears of a cell, `onSeek` of a time to go to. `helpOf` explains a rule. */
  constructor({ name, onPick, onSeek, helpOf }) {
    Object.assign(this, { name, onSeek, helpOf, trajectory: null, state: null, marks: new Map() });
    this.title = el('h3', { class: 'lane-title' });
    this.canvas = el('div', { class: 'canvas text' });
    this.view = new CanvasView(this.canvas, {
      name: `Canvas ${name}`,
      onPick: (at) => onPick(this, at),
    });
    this.verdict = el('p', { class: 'verdict' });
    this.numbers = Object.fromEntries(COUNTERS.map(([key]) => [key, el('dd', {}, '–')]));
    const counters = COUNTERS.flatMap(([key, text]) => [
      el('div', { class: `count ${key}` }, el('dt', {}, text), this.numbers[key]),
    ]);
    this.list = el('ol', { class: 'corrections' });
    this.element = el(
      'section',
      { class: 'lane', 'aria-label': `Policy ${name}` },
      this.title,
      this.canvas,
      el('dl', { class: 'counters' }, ...counters),
      this.verdict,
    );
  }

  load(trajectory, title) {
    // `corrected`: the events that `corrections` are of; `drawn`: the corrections in the list
    Object.assign(this, { trajectory, marks: new Map() });
    Object.assign(this, { corrections: [], corrected: -1, drawn: null });
    setText(this.title, title);
    this.view.load(trajectory);
    this.state = null;
    this.list.replaceChildren();
    this.show(0);
  }

  get length() {
    return this.trajectory?.events.length ?? 0;
  }

  /** Shows the canvas after `t` events. */
  show(t) {
    const { trajectory } = this;
    if (!trajectory) return;
    const to = Math.min(t, this.length);
    let { state } = this;
    if (!state || state.t > to) state = firstState(trajectory);
    while (state.t < to) advance(state, trajectory.events[state.t]);
    if (to === 0) state.edits = [];
    this.state = state;
    this.view.draw(trajectory, state, this.marks);
    this.count();
    this.listCorrections();
  }

  count() {
    const { trajectory, state, numbers } = this;
    const isEnd = state.t === this.length && trajectory.end?.kind === 'done';
    const steps = state.event ? state.event.step + 1 : 0;
    const answer = isEnd ? trajectory.end.answer?.diffusion : null;
    setText(numbers.steps, String(answer?.steps ?? steps));
    setText(numbers.passes, String(answer?.forward_passes ?? '–')); // known at the end
    for (const kind of ['fill', 'erase', 'replace'])
      setText(numbers[kind], String(state.counts[kind]));
    const speed = tokensPerSecond(trajectory, state);
    setText(numbers.speed, speed === null ? '–' : speed.toFixed(speed < 100 ? 1 : 0));
    setText(this.verdict, isEnd ? this.judgement() : '');
    this.verdict.classList.toggle('bad', isEnd && this.view.isGrid && !this.isSolved());
  }

  isSolved() {
    return isSolved(this.state.cells.map((cell) => cell.text));
  }

  /** What is to be said of the finished answer. */
  judgement() {
    if (!this.view.isGrid || this.trajectory.events.length === 0) return '';
    return this.isSolved()
      ? '✓ Every row, column and box has each digit once.'
      : '✗ Not solved: a digit stands twice in a row, column or box.';
  }

  /** The corrections up to now, newest first. */
  listCorrections() {
    if (this.corrected !== this.length) {
      this.corrections = correctionsOf(this.trajectory);
      this.corrected = this.length;
    }
    const { t } = this.state;
    const now = this.corrections.filter((one) => one.t <= t);
    const key = now
      .map((one) => (one.filledAt && one.filledAt <= t ? one.filledAt : 'open'))
      .join();
    if (key === this.drawn) return;
    this.drawn = key;
    const items = now.slice(-100).reverse();
    this.list.replaceChildren(...items.map((one) => this.correction(one, t)));
  }

  /** A line of the list, as far as it has come at time `t`. */
  correction(one, t) {
    const isWritten = one.filledAt && one.filledAt <= t;
    const [before, after] = [said(one.before), isWritten ? said(one.after) : '…'];
    const isSame = isWritten && label(one.before) === label(one.after);
    const why = one.quality === null ? byWhom(one.by) : `quality ${percent(one.quality)}`;
    const where = [place(one.at, this.view.isGrid), why].filter(Boolean).join(', ');
    const change = isSame
      ? [before, ' written again']
      : [el('del', {}, before), ' → ', el('ins', {}, after)];
    return el(
      'li',
      { class: isSame ? 'same' : null },
      el(
        'button',
        { type: 'button', on: { click: () => this.onSeek(one.t) } },
        el('span', { class: 'change' }, ...change),
        el('span', { class: 'where' }, where),
      ),
    );
  }

  /** The last event in words, for the line under the canvas. */
  sentence() {
    const { state, trajectory } = this;
    const { event } = state;
    if (trajectory.mode === 'score') return this.sentenceOfScore();
    if (!event) return 'The canvas before the first step.';
    const of = event.planned ? ` of at most ${event.planned}` : '';
    const count = (kind) => event.edits.filter((edit) => edit.kind === kind);
    const [erased, replaced, filled] = ['erase', 'replace', 'fill'].map(count);
    const parts = [];
    const tokens = (list) => counted(list.length, 'token');
    if (filled.length) parts.push(`${tokens(filled)} written`);
    if (replaced.length) parts.push(`${tokens(replaced)} replaced`);
    if (erased.length) parts.push(`${tokens(erased)} erased${this.why(erased)}`);
    const what = parts.length
      ? parts.join(', ')
      : 'the canvas is read again, and nothing is changed';
    const left = event.blanks ? ` ${event.blanks} blank.` : '';
    const isLast = state.t === trajectory.events.length && trajectory.end?.kind === 'done';
    const end = isLast ? ` Finished${passesOf(trajectory)}.` : '';
    return `Step ${event.step + 1}${of}: ${what}.${left}${end}`;
  }

  /** What the shades of a score mean. A model without a quality head only knows likelihoods. */
  sentenceOfScore() {
    return isJudged(this.trajectory)
      ? 'Each token is shaded by its quality. Doubtful ones are framed.'
      : 'Each token is shaded by its likelihood: its probability given all others.';
  }

  /** Why the last event erased these tokens. */
  why(erased) {
    const qualities = erased.map(({ quality }) => quality ?? null);
    if (qualities.includes(null)) {
      const whom = byWhom(this.state.event.erasedBy);
      return whom ? ` ${whom}` : '';
    }
    return qualities.length === 1
      ? `, which it believes with ${percent(qualities[0])} only`
      : ' that it no longer believes';
  }
}

/** What an answer took, where it took more forward passes than steps. */
function passesOf({ end, body }) {
  const { steps, forward_passes: passes } = end.answer?.diffusion ?? {};
  if (!passes || passes === steps) return '';
  const isOneMore = passes === steps + 1 && body.diffusion?.return_quality === true;
  const why = isOneMore ? ': one for each step, and one to judge the finished answer' : '';
  return ` in ${passes} forward passes${why}`;
}
