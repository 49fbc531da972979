// The conversation of the chat: its turns, as texts.

import { el } from './dom.js';

export class Conversation {
  constructor(host) {
    this.host = host;
    this.set([]);
  }

  set(turns) {
    this.turns = turns;
    this.host.hidden = turns.length === 0;
    this.host.replaceChildren(
      ...turns.map(({ role, content }) =>
        el(
          'li',
          { class: `turn ${role}` },
          el('span', { class: 'role' }, role),
          el('p', {}, content),
        ),
      ),
    );
    this.host.scrollTop = this.host.scrollHeight;
  }

  /** Adds a message and its answer. */
  add(message, answer) {
    this.set([
      ...this.turns,
      { role: 'user', content: message },
      { role: 'assistant', content: answer },
    ]);
  }
}
