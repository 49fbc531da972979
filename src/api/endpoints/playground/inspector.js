// What is known of one cell: its token, confidence, quality, and all that happened to it.

import { byWhom, causeOf } from './causes.js';
import { el } from './dom.js';
import { said, spelled } from './letters.js';
import { percent } from './shade.js';
import { historyOf, isEnd, lengthOf, qualityOf } from './trajectory.js';
import { place } from './sudoku.js';

/** A probability with a bar. `none` is said where there is none. */
function gauge(name, value, none = 'not known') {
  const isKnown = value !== null && value !== undefined;
  const meter = isKnown ? el('meter', { min: 0, max: 1, value, 'aria-label': name }) : null;
  const said = isKnown ? percent(value) : none;
  return el('div', { class: 'gauge' }, el('span', {}, name), meter, el('strong', {}, said));
}

/** Why a cell that is filled has no quality now. */
function noQuality({ body, end }) {
  const isAsked = body.diffusion?.return_quality === true;
  return isAsked && end === null ? 'judged at the end' : 'not judged';
}

/** A line about an edit, in words. */
function sentence({ edit, by }, before) {
  const confidence = `confidence ${percent(edit.confidence)}`;
  if (edit.kind === 'fill') return `${said(edit)} written, ${confidence}`;
  if (edit.kind === 'replace') return `${said(before)} replaced by ${said(edit)}, ${confidence}`;
  return `${said(before)} erased ${causeOf({ quality: edit.quality ?? null, by })}`;
}

/** What a cell is now, in words. */
function kindOf(cell, { isOfAnswer, isLast, letter }) {
  if (isLast) return 'ends the answer';
  if (!isOfAnswer) return 'behind the end of the answer, of which it is no part';
  const kind = {
    fixed: 'given, never changed',
    given: 'part of the given text',
    filled: 'written by the model',
    blank: cell.erased ? `erased; it was ${said(cell.erased)}` : 'nothing written yet',
  }[cell.kind];
  return letter === null ? kind : `${kind}; a part of “${letter}”`;
}

/** Why a token was erased: its quality, or what the policy goes by. `helpOf` explains a rule. */
function whyErased({ quality, by }, helpOf) {
  if (quality !== null) return [gauge('Quality when erased', quality)];
  const help = by.map(helpOf).filter(Boolean).join(' ');
  const why = by.length ? `Erased ${byWhom(by)}.` : 'These events do not tell why it was erased.';
  return [el('p', { class: 'help' }, help ? `${why} What that erases: ${help}` : why)];
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
  const title = cell.kind === 'blank' ? 'blank' : said(cell);
  const kind = kindOf(cell, {
    isOfAnswer: cell.kind === 'fixed' || at < lengthOf(trajectory, state),
    isLast: isEnd(trajectory, cell),
    letter: spelled(state.cells)[at].letter,
  });
  const parts = [
    el('h4', {}, el('span', { class: 'token' }, title), ` ${place(at, view.isGrid)}`),
    el('p', { class: 'help' }, cell.token === null ? kind : `${kind}; token ${cell.token}`),
  ];
  if (cell.kind === 'filled') parts.push(gauge('Confidence when written', cell.confidence));
  if (cell.kind === 'filled' || cell.kind === 'given')
    parts.push(gauge('Quality', qualityOf(trajectory, state, at), noQuality(trajectory)));
  if (cell.erased) parts.push(...whyErased(cell.erased, lane.helpOf));
  if (cell.likelihood !== undefined) parts.push(gauge('Likelihood', cell.likelihood));
  let before = trajectory.cells[at];
  const items = historyOf(trajectory, at, state.t).map((entry) => {
    const text = sentence(entry, before);
    before = entry.edit;
    const go = el(
      'button',
      { type: 'button', class: 'link', on: { click: () => onSeek(entry.t) } },
      `step ${entry.step + 1}`,
    );
    return el('li', { class: entry.edit.kind }, go, ` ${text}`);
  });
  if (items.length) parts.push(el('ol', { class: 'history' }, ...items));
  host.replaceChildren(...parts);
}
