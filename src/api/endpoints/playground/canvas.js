// Draws a canvas: as text, or a Sudoku as a grid. One element for each cell, made once.

import { el, setText } from './dom.js';
import { causeOf } from './causes.js';
import { PART, label, said, spelled } from './letters.js';
import { shade, percent } from './shade.js';
import { isEnd, isJudged, lengthOf, qualityOf } from './trajectory.js';
import { isGrid, place } from './sudoku.js';

/** Stands for a token that ends the answer. */
const END = '∎';

/** The text in a cell's element. `text` is what its token draws. */
function glyph(cell, text) {
  if (cell.kind === 'blank') {
    if (!cell.erased) return '·';
    return cell.erased.bytes ? PART : label(cell.erased);
  }
  return text.replaceAll('\r', '').replaceAll('\n', '↵\n').replaceAll('\t', '→\t');
}

/** The classes of a cell by itself. `known` is how sure it is, as judged. */
function classesOf(cell, known) {
  const isShaded = cell.kind === 'filled' || cell.kind === 'given';
  return [
    'cell',
    cell.kind,
    isShaded && shade(known ?? (cell.kind === 'filled' ? cell.confidence : null)),
    cell.erased && 'ghost',
    cell.isCorrected && 'corrected',
  ];
}

let views = 0; // made so far; their cells have ids

export class CanvasView {
  /** `onPick` hears of the cell under the pointer or the keyboard. */
  constructor(host, { name, onPick }) {
    Object.assign(this, { host, name, onPick, elements: [], picked: null, isGrid: false });
    views += 1;
    this.id = `canvas${views}`;
    host.addEventListener('pointerover', (event) => {
      const at = this.elements.indexOf(event.target);
      if (at >= 0) this.pick(at);
    });
    host.addEventListener('keydown', (event) => this.onKey(event));
    host.addEventListener('focus', () => this.pick(this.picked ?? 0));
  }

  /** Makes the cells of a trajectory's first canvas. */
  load(trajectory) {
    const { cells, prefix } = trajectory;
    this.picked = null;
    this.isGrid = isGrid(cells.map(({ text }) => text));
    const cell = (_, at) =>
      el(this.isGrid ? 'div' : 'span', {
        id: `${this.id}-${at}`,
        class: 'cell',
        role: this.isGrid ? 'gridcell' : 'option',
      });
    this.elements = cells.map(cell);
    this.host.replaceChildren();
    this.host.className = this.isGrid ? 'canvas grid' : 'canvas text';
    this.host.setAttribute('role', this.isGrid ? 'grid' : 'listbox');
    this.host.setAttribute('aria-label', this.name);
    this.host.removeAttribute('aria-activedescendant');
    this.host.tabIndex = 0;
    if (this.isGrid) {
      for (let row = 0; row < 9; row += 1) {
        const nine = this.elements.slice(row * 10, row * 10 + 9);
        this.host.append(el('div', { class: 'row', role: 'row' }, ...nine));
      }
    } else {
      if (prefix) this.host.append(el('span', { class: 'prefix', 'aria-hidden': 'true' }, prefix));
      this.host.append(...this.elements);
    }
  }

  /** Shows a state. `marks` are further classes of cells, by their places. */
  draw(trajectory, state, marks = new Map()) {
    const now = new Map(state.edits.map((edit) => [edit.at, `now-${edit.kind}`]));
    const spelling = spelled(state.cells);
    const length = lengthOf(trajectory, state);
    const hasQuality = isJudged(trajectory); // else a score is of likelihoods
    state.cells.forEach((cell, at) => {
      const quality = qualityOf(trajectory, state, at);
      const ends = isEnd(trajectory, cell);
      const classes = [
        ...classesOf(cell, quality ?? (hasQuality ? null : cell.likelihood)),
        spelling[at].isJoined && 'joined',
        spelling[at + 1]?.isJoined && 'joins',
        ends && 'end',
        at >= length && cell.kind !== 'fixed' && 'behind',
        now.get(at),
        marks.get(at),
        at === this.picked && 'picked',
      ];
      const element = this.elements[at];
      const name = classes.filter(Boolean).join(' ');
      if (element.className !== name) element.className = name;
      const text = ends ? END : glyph(cell, spelling[at].text);
      setText(element, this.isGrid ? text.trim() : text);
      const what = ends ? 'the end of the answer' : describe(cell, quality, spelling[at].letter);
      const words = `${place(at, this.isGrid)}: ${what}`;
      if (element.getAttribute('aria-label') !== words) element.setAttribute('aria-label', words);
    });
  }

  pick(at) {
    if (!this.elements[at] || (this.isGrid && at % 10 === 9)) return;
    this.elements[this.picked]?.classList.remove('picked');
    this.picked = at;
    this.elements[at].classList.add('picked');
    this.host.setAttribute('aria-activedescendant', this.elements[at].id);
    this.onPick(at);
  }

  onKey(event) {
    const row = this.isGrid ? 10 : this.cellsPerRow();
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
    const end = this.elements.length - 1;
    const from = this.picked ?? 0;
    let to = { Home: 0, End: end }[event.key] ?? from + (moves[event.key] ?? Number.NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    if (this.isGrid && to % 10 === 9) to += Math.sign(to - from); // over the line break
    if (to >= 0 && to <= end) {
      this.pick(to);
      this.elements[to].scrollIntoView({ block: 'nearest' });
    }
  }

  /** About how many cells a line of text has. */
  cellsPerRow() {
    const top = this.elements[this.picked ?? 0]?.offsetTop;
    return Math.max(1, this.elements.filter((element) => element.offsetTop === top).length);
  }
}

/** What a cell is, in words. `letter` is the one that it has a part of. */
function describe(cell, quality, letter) {
  if (cell.kind === 'blank')
    return cell.erased ? `erased ${causeOf(cell.erased)}, was ${said(cell.erased)}` : 'blank';
  const text = letter === null ? said(cell) : `${said(cell)} of “${letter}”`;
  if (cell.kind === 'fixed') return `${text}, given`;
  const known = quality === null ? '' : `, quality ${percent(quality)}`;
  if (cell.kind === 'given') return `${text}, given${known}`;
  const end = cell.isCorrected ? ', corrected' : '';
  return `${text}, confidence ${percent(cell.confidence)}${known}${end}`;
}
