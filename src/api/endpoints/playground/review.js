// The review of a repair: each rewrite is accepted or rejected, and the text follows.

import { postJson } from './api.js';
import { byId, counted, el, setText, show } from './dom.js';
import { said } from './letters.js';
import { percent } from './shade.js';
import { place } from './sudoku.js';
import { isJudged } from './trajectory.js';

export class Review {
  /** `onChange` hears of the text. */
  constructor(onChange) {
    this.onChange = onChange;
    this.lane = null;
    byId('accept-all').addEventListener('click', () => this.setAll(true));
    byId('reject-all').addEventListener('click', () => this.setAll(false));
  }

  hide() {
    this.lane = null;
    show(byId('review'), false);
  }

  /** Shows the rewrites of a lane whose repair has ended. */
  open(lane) {
    this.lane = lane;
    this.rewrites = (lane.trajectory.end.answer.edits ?? []).map((edit) => ({
      edit,
      isAccepted: true,
    }));
    const items = this.rewrites.map((one) => this.item(one));
    const none = el(
      'li',
      { class: 'help' },
      'No token was rewritten: the model believes this text.',
    );
    byId('rewrites').replaceChildren(...(items.length ? items : [none]));
    for (const id of ['accept-all', 'reject-all']) byId(id).disabled = items.length === 0;
    show(byId('review'), true);
    this.changed();
  }

  item(one) {
    const { at, was, was_text: text, was_bytes: bytes, confidence } = one.edit;
    const where = place(at, this.lane.view.isGrid);
    const [before, after] = [said({ token: was, text, bytes }), said(one.edit)];
    const change = `${before} to ${after}`;
    const choice = (name, isAccepted) =>
      el(
        'button',
        {
          type: 'button',
          'aria-label': `${name} ${change}, ${where}`,
          on: {
            click: () => {
              one.isAccepted = isAccepted;
              this.changed();
            },
          },
        },
        name,
      );
    one.buttons = [choice('Accept', true), choice('Reject', false)];
    return el(
      'li',
      {},
      el('span', { class: 'change' }, el('del', {}, before), ' → ', el('ins', {}, after)),
      el('span', { class: 'where' }, `${where}, confidence ${percent(confidence)}`),
      el('span', { class: 'choice' }, ...one.buttons),
    );
  }

  setAll(isAccepted) {
    for (const one of this.rewrites) one.isAccepted = isAccepted;
    this.changed();
  }

  async changed() {
    const { lane } = this;
    for (const { isAccepted, buttons } of this.rewrites) {
      buttons.forEach((button, index) =>
        button.setAttribute('aria-pressed', String(isAccepted === (index === 0))),
      );
    }
    const rejected = this.rewrites.filter(({ isAccepted }) => !isAccepted);
    lane.marks = new Map(rejected.map(({ edit }) => [edit.at, 'rejected']));
    lane.show(lane.state.t);
    const { text } = lane.trajectory.end;
    this.onChange(rejected.length === 0 && text ? text : await this.text(lane));
  }

  /** The text with the accepted rewrites: its tokens as the server spells them. */
  async text(lane) {
    const tokens = lane.trajectory.cells.map(({ token }) => token);
    for (const { edit, isAccepted } of this.rewrites) if (isAccepted) tokens[edit.at] = edit.token;
    if (Array.isArray(lane.trajectory.body.text)) return JSON.stringify(tokens);
    try {
      return (await postJson('detokenize', { model: lane.trajectory.body.model, tokens })).prompt;
    } catch (cause) {
      return `The server did not spell the text: ${cause.message}`;
    }
  }
}

/** Marks the doubtful tokens of a score, if it has qualities. */
export function markDoubtful(lane) {
  if (!isJudged(lane.trajectory)) return;
  const doubtful = lane.trajectory.end?.answer?.doubtful ?? [];
  lane.marks = new Map(doubtful.map((at) => [at, 'flagged']));
  lane.show(0);
  const verb = doubtful.length === 1 ? 'is' : 'are';
  setText(lane.verdict, `${counted(doubtful.length, 'token')} ${verb} doubtful.`);
}
