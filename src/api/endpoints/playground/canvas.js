// Draws a canvas: as text, or a Sudoku as a grid. One element for each cell, made once.

import { el, setText } from './dom.js';
import { shade, percent } from './shade.js';
import { label, qualityOf } from './trajectory.js';
import { isGrid, place } from './sudoku.js';

/** The text in a cell's element. */
function glyph(cell) {
  if (cell.kind === 'blank') return cell.ghost ?? '·';
  return label(cell.token, cell.text)
    .replaceAll('\r', '')
    .replaceAll('\n', '↵\n')
    .replaceAll('\t', '→\t');
}

let drawn = 0;

export class CanvasView {
  /** `onPick` hears of the cell under the pointer or the keyboard. */
  constructor(host, { name, onPick }) {
    Object.assign(this, { host, name, onPick, elements: [], picked: null, isGrid: false });
    drawn += 1;
    this.id = `canvas${drawn}`;
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
    const now = new Map(state.edits.map((edit) => [edit.at, edit.kind]));
    state.cells.forEach((cell, at) => {
      const element = this.elements[at];
      const quality = qualityOf(trajectory, state, at);
      const classes = ['cell', cell.kind];
      if (cell.kind === 'filled') classes.push(shade(quality ?? cell.confidence));
      if (cell.kind === 'given') classes.push(shade(quality));
      if (cell.ghost !== undefined) classes.push('ghost');
      if (cell.isCorrected) classes.push('corrected');
      if (now.has(at)) classes.push(`now-${now.get(at)}`);
      if (marks.has(at)) classes.push(marks.get(at));
      if (at === this.picked) classes.push('picked');
      const name = classes.join(' ');
      if (element.className !== name) element.className = name;
      const text = glyph(cell);
      setText(element, this.isGrid ? text.trim() : text);
      const said = `${place(at, this.isGrid)}: ${describe(cell, quality)}`;
      if (element.getAttribute('aria-label') !== said) element.setAttribute('aria-label', said);
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

/** What a cell is, in words. */
export function describe(cell, quality) {
  if (cell.kind === 'blank')
    return cell.ghost === undefined ? 'blank' : `erased, was ${said(cell.ghost)}`;
  const text = said(label(cell.token, cell.text));
  if (cell.kind === 'fixed') return `${text}, given`;
  const known = quality === null ? '' : `, quality ${percent(quality)}`;
  if (cell.kind === 'given') return `${text}, given${known}`;
  const end = cell.isCorrected ? ', corrected' : '';
  return `${text}, confidence ${percent(cell.confidence)}${known}${end}`;
}

/** A token's text for people: quoted, with its white space named. */
export function said(text) {
  const names = { ' ': 'space', '\n': 'line break', '\t': 'tab' };
  return names[text] ?? `“${text.replaceAll('\n', '↵')}”`;
}
