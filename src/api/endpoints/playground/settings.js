// The settings of the page: its fields read into one object, and written from one.

import { byId, setText, show } from './dom.js';
import { isSudoku, refusalOf } from './models.js';
import { PATHS } from './requests.js';
import { PUZZLES, SOLVED, WRONG } from './sudoku.js';

/** What the demo model writes, with two wrong letters. */
const OF_TOY = ' sphinx of black quarts, judge mi vow; then ';

/** Names of settings, the fields they are in, and how a field is read. */
const FIELDS = [
  ['template', 'template', 'text'],
  ['blank', 'blank', 'text'],
  ['prompt', 'prompt', 'text'],
  ['message', 'message', 'text'],
  ['text', 'text', 'text'],
  ['extra', 'extra', 'text'],
  ['seed', 'seed', 'number'],
  ['temperature', 'temperature', 'number'],
  ['maxTokens', 'max-tokens', 'number'],
  ['below', 'below', 'number'],
  ['worst', 'worst', 'number'],
  ['rounds', 'rounds', 'number'],
  ['likelihood', 'likelihood', 'check'],
  ['compare', 'compare', 'check'],
  ['ids', 'ids', 'check'],
];

const MODES = ['infill', 'prompt', 'chat', 'repair', 'score'];

export function modeOf() {
  return document.querySelector('input[name="mode"]:checked').value;
}

/** Shows the fields of a mode, if the model does not refuse it, and hides those of others. */
export function showMode(mode) {
  const field = document.querySelector(`input[name="mode"][value="${mode}"]`);
  if (field.disabled) return;
  field.checked = true;
  for (const part of document.querySelectorAll('[data-modes]')) {
    part.hidden = !part.dataset.modes.split(' ').includes(mode);
  }
}

/** Offers the modes that a model has, and says why it has no others. */
export function offerModes(model) {
  const notes = [];
  for (const field of document.querySelectorAll('input[name="mode"]')) {
    const why = refusalOf(model, PATHS[field.value]);
    field.disabled = why !== null;
    if (why) notes.push(`${field.nextElementSibling.textContent} ${why}.`);
  }
  setText(byId('mode-note'), notes.join(' '));
  show(byId('mode-note'), notes.length > 0);
  if (document.querySelector('input[name="mode"]:checked').disabled) showMode('infill');
  // without a quality head a text has likelihoods only
  const likelihood = byId('likelihood');
  likelihood.disabled = !model.diffusion.has_quality_head;
  likelihood.checked ||= likelihood.disabled;
}

/** The settings, without the policies. */
export function readSettings() {
  const values = FIELDS.map(([name, id, kind]) => {
    const field = byId(id);
    if (kind === 'check') return [name, field.checked];
    if (kind === 'text') return [name, field.value];
    return [name, field.value === '' ? null : Number(field.value)];
  });
  return { mode: modeOf(), ...Object.fromEntries(values) };
}

/** Writes those settings that are given, and of the right type. */
export function writeSettings(settings) {
  for (const [name, id, kind] of FIELDS) {
    const [field, value] = [byId(id), settings[name]];
    if (kind === 'check' && typeof value === 'boolean') field.checked = value;
    if (kind === 'text' && typeof value === 'string') field.value = value;
    if (kind === 'number' && (value === null || Number.isFinite(value))) field.value = value ?? '';
  }
  if (MODES.includes(settings.mode)) showMode(settings.mode);
}

/** The turns of a conversation that are well formed. */
export function turnsOf(value) {
  const isTurn = (one) =>
    ['user', 'assistant', 'system'].includes(one?.role) && typeof one.content === 'string';
  return Array.isArray(value)
    ? value.filter(isTurn).map(({ role, content }) => ({ role, content }))
    : [];
}

/** What the fields hold at first. */
export function defaults(model) {
  const withoutCorrections = { remasking: 'off', proofreading: 'off' };
  const common = { mode: 'infill', seed: 1, temperature: 0, policies: [{}, withoutCorrections] };
  return isSudoku(model)
    ? {
        ...common,
        template: PUZZLES[0].template,
        blank: '.',
        prompt: SOLVED.slice(0, 80),
        maxTokens: 9,
        message: SOLVED.slice(0, 80),
        text: WRONG,
      }
    : {
        ...common,
        template: 'Once upon a time<blank:48>',
        blank: '<blank>',
        prompt: 'Once upon a time',
        maxTokens: 64,
        message: 'Write a haiku.',
        text: model.diffusion.family === 'toy' ? OF_TOY : 'The quick brown fox jumqs over the dog.',
      };
}
