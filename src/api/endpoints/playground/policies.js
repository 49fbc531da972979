// The form of a policy, made from what `/v1/models` says of the model: every rule, every knob.

import { el } from './dom.js';

let forms = 0;

/** Whether a value was given. */
const isGiven = (value) => value !== null && value !== '' && !Number.isNaN(value);

function number(id, { minimum, maximum, kind }, onChange) {
  const step = kind === 'count' ? 1 : 'any';
  return el('input', {
    id,
    type: 'number',
    min: minimum,
    max: maximum,
    step,
    inputmode: 'decimal',
    on: { input: onChange },
  });
}

/** One knob of a rule: a number, or two for a span. */
class KnobField {
  constructor(prefix, knob, onChange) {
    this.knob = knob;
    const id = `${prefix}-${knob.name}`;
    const ends = knob.kind === 'span' ? ['from', 'to'] : [null];
    this.inputs = ends.map((end) => number(end ? `${id}-${end}` : id, knob, onChange));
    if (knob.kind === 'span') {
      this.inputs.forEach((input, index) =>
        input.setAttribute('aria-label', `${knob.name} ${ends[index]}`),
      );
    }
    const label = el('label', { for: this.inputs[0].id }, knob.name);
    const help = el('p', { class: 'help', id: `${id}-help` }, knob.help);
    this.inputs.forEach((input) => input.setAttribute('aria-describedby', help.id));
    this.element = el(
      'div',
      { class: 'knob' },
      label,
      el('div', { class: 'ends' }, ...this.inputs),
      help,
    );
  }

  value() {
    const values = this.inputs.map((input) => (input.value === '' ? null : Number(input.value)));
    if (this.knob.kind === 'span') return values.every((value) => value === null) ? null : values;
    return values[0];
  }

  set(value) {
    const values = Array.isArray(value) ? value : [value];
    this.inputs.forEach((input, index) => {
      input.value = values[index] ?? '';
    });
  }
}

/** A choice between rules, with the knobs of the one that is chosen. */
class RuleField {
  constructor(prefix, { title, none, rules, help = '' }, onChange) {
    Object.assign(this, { title, rules, prefix, onChange, knobs: [] });
    this.help = help;
    // what the model refuses stays in the list, with the reason
    const options = rules.map(({ name, refused }) =>
      el(
        'option',
        { value: name, disabled: Boolean(refused) },
        refused ? `${name}: ${refused}` : name,
      ),
    );
    this.select = el(
      'select',
      {
        id: prefix,
        on: {
          change: () => {
            this.choose();
            onChange();
          },
        },
      },
      el('option', { value: '' }, none),
      ...options,
    );
    this.text = el('p', { class: 'help', id: `${prefix}-help` });
    this.select.setAttribute('aria-describedby', this.text.id);
    this.host = el('div', { class: 'knobs' });
    this.element = el(
      'div',
      { class: 'field' },
      el('label', { for: prefix }, title),
      this.select,
      this.text,
      this.host,
    );
    this.choose();
  }

  choose() {
    const rule = this.rules.find(({ name }) => name === this.select.value);
    this.text.textContent = rule?.help ?? this.help;
    this.knobs = (rule?.knobs ?? []).map((knob) => new KnobField(this.prefix, knob, this.onChange));
    this.host.replaceChildren(...this.knobs.map(({ element }) => element));
  }

  name() {
    return this.select.value;
  }

  settings() {
    const set = this.knobs.map((field) => [field.knob.name, field.value()]);
    return Object.fromEntries(set.filter(([, value]) => isGiven(value)));
  }

  /** Chooses a rule; the default if the model refuses it, and why; null if it does not. */
  set(name, settings = {}) {
    const rule = this.rules.find((one) => one.name === name);
    const refused = rule?.refused ?? null;
    this.select.value = rule && !refused ? name : '';
    this.choose();
    for (const field of this.knobs) field.set(settings[field.knob.name] ?? '');
    return refused && `${this.title} “${name}” ${refused}.`;
  }
}

/** Proofreading is no rule of the registry; its options are those of docs/policies.md. */
const proofreading = (refused) => [
  {
    name: 'on',
    help: 'The quality head reads the full block, and doubtful tokens are filled again.',
    refused,
    knobs: [
      {
        name: 'steps',
        kind: 'count',
        minimum: 2,
        maximum: 65536,
        help: 'Further steps per block at most; default: the model’s, else one per cell, to 128.',
      },
      {
        name: 'below',
        kind: 'fraction',
        minimum: 0,
        maximum: 1,
        help: 'Tokens of lower quality are erased; default: 0.5, without steps the model’s.',
      },
      {
        name: 'most',
        kind: 'count',
        minimum: 1,
        maximum: 65536,
        help: 'Erasures per round at most; default: all doubtful.',
      },
      {
        name: 'temperature',
        kind: 'number',
        minimum: 0,
        help: 'At which they are filled again; default: the request’s.',
      },
    ],
  },
  { name: 'off', help: 'A full block is final.', knobs: [] },
];

const END_OF_TEXT = ['free', 'last', 'never'].map((name) => ({ name, help: '', knobs: [] }));

const NUMBERS = [
  {
    name: 'steps',
    kind: 'count',
    minimum: 1,
    maximum: 65536,
    help: 'Steps at most without proofreading; default: one per blank, or the model’s.',
  },
  {
    name: 'block_length',
    kind: 'count',
    minimum: 1,
    maximum: 65536,
    help: 'Cells per block, refined left to right; default: the model’s, else all.',
  },
  {
    name: 'cfg_scale',
    kind: 'number',
    minimum: 0,
    maximum: 100,
    help: 'Weight of classifier-free guidance; default: 0, off.',
  },
];

/** The `diffusion` object of a request, as a form. */
export class PolicyForm {
  constructor(model, onChange) {
    forms += 1;
    const prefix = `policy${forms}`;
    const { policies, presets = {}, refused } = model;
    const field = (name, title, none, rules, help) =>
      new RuleField(`${prefix}-${name}`, { title, none, rules, help }, onChange);
    const asRules = Object.entries(presets).map(([name, preset]) => ({
      name,
      help: JSON.stringify(preset),
      knobs: [],
    }));
    this.preset = field(
      'preset',
      'Preset',
      'none',
      asRules,
      'A name for a set of the fields below; what is set there wins.',
    );
    this.order = field(
      'order',
      'Unmasking: order',
      'default',
      policies.unmasking,
      'Which blanks are filled first.',
    );
    this.pace = field(
      'pace',
      'Unmasking: pace',
      'even share per step',
      policies.paces,
      'How many blanks a step fills.',
    );
    this.remasking = field(
      'remasking',
      'Remasking',
      'default',
      policies.remasking,
      'Which tokens are erased again.',
    );
    this.proofreading = field(
      'proofreading',
      'Proofreading',
      'default',
      proofreading(refused['diffusion.proofreading']),
      'Correction of a full block.',
    );
    this.cache = field(
      'cache',
      'Cache',
      'default',
      policies.caches,
      'Which keys and values are kept between passes.',
    );
    this.end = field(
      'end',
      'End of text',
      'default',
      END_OF_TEXT,
      'When tokens that end the text may be filled.',
    );
    this.numbers = NUMBERS.map((knob) => new KnobField(prefix, knob, onChange));
    this.fields = [
      this.preset,
      this.order,
      this.pace,
      this.remasking,
      this.proofreading,
      this.end,
      this.cache,
    ];
    this.element = el(
      'div',
      { class: 'policy' },
      ...this.fields.map(({ element }) => element),
      el('div', { class: 'knobs' }, ...this.numbers.map(({ element }) => element)),
    );
  }

  value() {
    const policy = {};
    const put = (name, value) => {
      if (isGiven(value)) policy[name] = value;
    };
    const chosen = (field, key) => {
      const settings = field.settings();
      if (!field.name()) return null;
      return Object.keys(settings).length ? { [key]: field.name(), ...settings } : field.name();
    };
    put('preset', this.preset.name());
    for (const field of this.numbers) put(field.knob.name, field.value());
    const unmasking = {
      ...(this.order.name() ? { order: this.order.name() } : {}),
      ...this.order.settings(),
      ...this.pace.settings(),
    };
    const words = Object.keys(unmasking);
    if (words.length)
      put('unmasking', words.length === 1 && unmasking.order ? unmasking.order : unmasking);
    put('remasking', chosen(this.remasking, 'policy'));
    const numbers = this.proofreading.settings();
    put('proofreading', Object.keys(numbers).length ? numbers : this.proofreading.name());
    put('end_of_text', this.end.name());
    put('cache', chosen(this.cache, 'policy'));
    return policy;
  }

  /** Takes a policy. Returns what the model refuses of it, as sentences; its default is taken. */
  set(policy) {
    const split = (value, key) =>
      typeof value === 'string' ? [value, {}] : [value?.[key] ?? '', value ?? {}];
    for (const field of this.numbers) field.set(policy[field.knob.name] ?? '');
    const [order, ofUnmasking] = split(policy.unmasking, 'order');
    const pace = this.pace.rules.find(({ name }) => name in ofUnmasking)?.name ?? '';
    const own = policy.proofreading ?? '';
    return [
      this.preset.set(policy.preset ?? ''),
      this.order.set(order, ofUnmasking),
      this.pace.set(pace, ofUnmasking),
      this.remasking.set(...split(policy.remasking, 'policy')),
      this.proofreading.set(...(typeof own === 'string' ? [own] : ['on', own])),
      this.end.set(policy.end_of_text ?? ''),
      this.cache.set(...split(policy.cache, 'policy')),
    ].filter(Boolean);
  }
}

/** What the page itself asks for, which is no part of a policy. */
const OF_PAGE = ['return_quality', 'stream_edits'];

/**
 * The titles of trajectories: of several, what their requests say of their policies. It is the same
 * when they are imported again.
 */
export function titlesOf(trajectories) {
  if (trajectories.length < 2) return [''];
  return trajectories.map(({ path, body }, index) => {
    const policy = Object.entries(body.diffusion ?? {}).filter(([name]) => !OF_PAGE.includes(name));
    const words = path ? summary(Object.fromEntries(policy)) : 'policy not told by the file';
    return `${'AB'[index]}: ${words}`;
  });
}

/** A policy in a few words. */
function summary(policy) {
  const word = (value, key) =>
    typeof value === 'string'
      ? value
      : [
          value[key],
          ...Object.entries(value)
            .filter(([name]) => name !== key)
            .map(([name, one]) => `${name} ${[one].flat().join('–')}`),
        ]
          .filter(Boolean)
          .join(', ');
  const parts = Object.entries(policy).map(([name, value]) => {
    const key = name === 'unmasking' ? 'order' : 'policy';
    return `${name.replaceAll('_', ' ')}: ${typeof value === 'object' ? word(value, key) : value}`;
  });
  return parts.length ? parts.join(' · ') : 'the model’s defaults';
}
