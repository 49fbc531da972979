// A lane: one trajectory on its canvas, with its counters and its corrections.

import { CanvasView, said } from './canvas.js';
import { el, setText } from './dom.js';
import { percent } from './shade.js';
import { isSolved, place } from './sudoku.js';
import { advance, correctionsOf, firstState, tokensPerSecond } from './trajectory.js';

const COUNTERS = [
  ['passes', 'passes'],
  ['fill', 'written'],
  ['erase', 'erased'],
  ['replace', 'replaced'],
  ['speed', 'tokens/s'],
];

const isNone = (value) => value === null || value === undefined;

export class Lane {
  /** `onPick` hears of a cell, `onSeek` of a time to go to. */
  constructor({ name, onPick, onSeek }) {
    Object.assign(this, { name, onSeek, trajectory: null, state: null, marks: new Map() });
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
    Object.assign(this, { trajectory, marks: new Map(), known: -1, corrections: [], drawn: null });
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
    const passes = state.event ? state.event.step + 1 : 0;
    const answer = isEnd ? trajectory.end.answer?.diffusion : null;
    setText(numbers.passes, String(answer?.forward_passes ?? passes));
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
    if (this.known !== this.length) {
      this.corrections = correctionsOf(this.trajectory);
      this.known = this.length;
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
    const isSame = isWritten && one.before === one.after;
    const quality = isNone(one.quality) ? null : `quality ${percent(one.quality)}`;
    const where = [place(one.at, this.view.isGrid), quality].filter(Boolean).join(', ');
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
    if (trajectory.mode === 'score')
      return 'Each token is shaded by its quality. Doubtful ones are framed.';
    if (!event) return 'The canvas before the first pass.';
    const of = event.planned ? ` of at most ${event.planned}` : '';
    const head = `Pass ${event.step + 1}${of}:`;
    const count = (kind) => event.edits.filter((edit) => edit.kind === kind);
    const [erased, replaced, filled] = ['erase', 'replace', 'fill'].map(count);
    const parts = [];
    const noun = (list) => (list.length === 1 ? 'token' : 'tokens');
    if (filled.length) parts.push(`${filled.length} ${noun(filled)} written`);
    if (replaced.length) parts.push(`${replaced.length} ${noun(replaced)} replaced`);
    if (erased.length) {
      const one =
        erased.length === 1 && erased[0].quality !== null
          ? `, which it believes with ${percent(erased[0].quality)} only`
          : ' that it no longer believes';
      parts.push(`${erased.length} ${noun(erased)} erased${one}`);
    }
    const what = parts.length
      ? parts.join(', ')
      : 'the canvas is read again, and nothing is changed';
    const left = event.blanks ? ` ${event.blanks} blank.` : '';
    const end =
      state.t === trajectory.events.length && trajectory.end?.kind === 'done' ? ' Finished.' : '';
    return `${head} ${what}.${left}${end}`;
  }
}
