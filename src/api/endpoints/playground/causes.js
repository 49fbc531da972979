// Why a token was erased, in words. An event names what erased: a remasking, or proofreading.

import { percent } from './shade.js';

const eraser = (name) => (name === 'proofreading' ? name : `the remasking “${name}”`);

/** Whose doing an erasure is, as `by the remasking “remdm”`; empty if the events do not tell. */
export const byWhom = (names) => (names.length ? `by ${names.map(eraser).join(' or ')}` : '');

/** Why a token was erased, as far as the events tell: its quality, and what went by it. */
export function causeOf({ quality, by }) {
  const whom = byWhom(by);
  if (quality === null) return whom || 'for a reason that these events do not tell';
  return [whom, `for its quality of ${percent(quality)}`].filter(Boolean).join(' ');
}
