// The choice between the puzzles of the page.

import { byId, el, setText } from './dom.js';
import { PUZZLES } from './sudoku.js';

export const isOfPage = (template) => PUZZLES.some((puzzle) => puzzle.template === template);

/** Offers the puzzles. `onChoose` hears of a choice, whose template is in its field by then. */
export function offered(onChoose) {
  const field = byId('puzzle');
  field.append(...PUZZLES.map(({ name }, index) => el('option', { value: index }, name)));
  field.addEventListener('change', () => {
    byId('template').value = PUZZLES[Number(field.value)].template;
    byId('blank').value = '.';
    onChoose();
  });
}

/** Shows which puzzle the template is, and what one sees in it. */
export function named() {
  const index = PUZZLES.findIndex(({ template }) => template === byId('template').value);
  byId('puzzle').value = index < 0 ? '' : String(index);
  setText(byId('puzzle-note'), PUZZLES[index]?.note ?? 'A template of your own.');
}
