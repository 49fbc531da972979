// What is known of one cell: its token, confidence, quality, and all that happened to it.

import { el } from './dom.js';
import { said } from './canvas.js';
import { percent } from './shade.js';
import { historyOf, label, qualityOf } from './trajectory.js';
import { place } from './sudoku.js';

function gauge(name, value) {
  const known = value !== null && value !== undefined;
  const meter = known ? el('meter', { min: 0, max: 1, value, 'aria-label': name }) : null;
  return el(
    'div',
    { class: 'gauge' },
    el('span', {}, name),
    meter,
    el('strong', {}, percent(value)),
  );
}

/** A line about an edit, in words. */
export function sentence({ edit }, before) {
  if (edit.kind === 'fill') {
    return `${said(label(edit.token, edit.text))} written, confidence ${percent(edit.confidence)}`;
  }
  if (edit.kind === 'replace') {
    const [old, fresh] = [said(before), said(label(edit.token, edit.text))];
    return `${old} replaced by ${fresh}, confidence ${percent(edit.confidence)}`;
  }
  const why = edit.quality === null ? '' : `, quality ${percent(edit.quality)}`;
  return `${said(before)} erased${why}`;
}

/** Draws cell `at` of a lane as it is now. `onSeek` goes to a time. */
export function inspect(host, lane, at, onSeek) {
  const { trajectory, state, view } = lane;
  const cell = state?.cells[at];
  if (!cell) {
    host.replaceChildren(
      el('p', { class: 'help' }, 'Point at a cell, or reach it with the arrow keys.'),
    );
    return;
  }
  const title = cell.kind === 'blank' ? 'blank' : said(label(cell.token, cell.text));
  const kind = {
    fixed: 'given, never changed',
    given: 'part of the given text',
    filled: 'written by the model',
    blank: cell.ghost === undefined ? 'nothing written yet' : `erased; it was ${said(cell.ghost)}`,
  }[cell.kind];
  const parts = [
    el('h4', {}, el('span', { class: 'token' }, title), ` ${place(at, view.isGrid)}`),
    el('p', { class: 'help' }, cell.token === null ? kind : `${kind}; token ${cell.token}`),
  ];
  if (cell.kind === 'filled') parts.push(gauge('Confidence when written', cell.confidence));
  if (cell.kind !== 'fixed') parts.push(gauge('Quality', qualityOf(trajectory, state, at)));
  if (cell.likelihood !== undefined) parts.push(gauge('Likelihood', cell.likelihood));
  let before = trajectory.cells[at].text ?? '';
  const items = historyOf(trajectory, at, state.t).map((entry) => {
    const text = sentence(entry, before);
    before = entry.edit.kind === 'erase' ? '' : label(entry.edit.token, entry.edit.text);
    const go = el(
      'button',
      { type: 'button', class: 'link', on: { click: () => onSeek(entry.t) } },
      `pass ${entry.step + 1}`,
    );
    return el('li', { class: entry.edit.kind }, go, ` ${text}`);
  });
  if (items.length) parts.push(el('ol', { class: 'history' }, ...items));
  host.replaceChildren(...parts);
}
