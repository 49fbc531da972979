// How a probability looks: five steps from "sure" to "doubtful". Each step has a colour of its own
// lightness and, where it is not sure, an underline of its own, so that no one needs the hue.

import { el } from './dom.js';

const STEPS = [
  { from: 0.99, name: 'sure', text: '99 % and more' },
  { from: 0.9, name: 'likely', text: '90 to 99 %' },
  { from: 0.7, name: 'open', text: '70 to 90 %' },
  { from: 0.5, name: 'unsure', text: '50 to 70 %' },
  { from: 0, name: 'doubtful', text: 'below 50 %' },
];

/** The class of a probability; none for one that is not known. */
export function shade(probability) {
  if (probability === null || probability === undefined) return 'unknown';
  return STEPS.find((step) => probability >= step.from)?.name ?? 'unknown';
}

/** A probability as people read it, never rounded up to certainty. */
export function percent(probability) {
  if (probability === null || probability === undefined) return 'not known';
  const digits = probability > 0.99 && probability < 1 ? 2 : 0;
  const rounded = Math.floor(probability * 100 * 10 ** digits) / 10 ** digits;
  return probability > 0 && probability < 0.01 ? 'below 1 %' : `${rounded.toFixed(digits)} %`;
}

/** The entries of the legend: a class of a cell, the text in it, and what it means. */
const LEGEND = [
  ['fixed', '5', 'given'],
  ['blank', '·', 'blank'],
  ...STEPS.map(({ name, text }) => [`filled ${name}`, '5', text]),
  ['blank ghost', '5', 'erased, to be written again'],
  ['filled sure corrected', '5', 'corrected'],
  ['filled end', '∎', 'end of the answer'],
];

/** The items of the legend. */
export const legend = () =>
  LEGEND.map(([kind, text, meaning]) =>
    el('li', {}, el('span', { class: `cell ${kind}`, 'aria-hidden': 'true' }, text), ` ${meaning}`),
  );
