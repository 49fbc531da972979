// What went wrong, in the server's words; and the wait that a busy server asks for.

import { byId, el, show } from './dom.js';

export class ErrorBox {
  /** `again` sends the request once more. */
  constructor({ again }) {
    Object.assign(this, { again, timer: null, box: byId('error'), wait: byId('wait') });
  }

  hide() {
    clearInterval(this.timer);
    show(this.box, false);
    show(this.wait, false);
  }

  /** Something that is no error. */
  note(text) {
    this.box.replaceChildren(el('p', {}, text));
    this.box.className = 'error mild';
    show(this.box, true);
  }

  show(cause) {
    const { message, status, code, param, retryAfter } = cause;
    const facts = [
      status ? `status ${status}` : null,
      code,
      param ? `field ${param}` : null,
    ].filter(Boolean);
    const text = cause instanceof TypeError ? `This page made a mistake: ${message}.` : message;
    const line = facts.length ? [el('p', { class: 'facts' }, facts.join(' · '))] : [];
    this.box.replaceChildren(el('p', {}, text), ...line);
    this.box.className = 'error';
    show(this.box, true);
    if (retryAfter !== null && retryAfter !== undefined) this.countDown(retryAfter);
    if (status === 401) byId('key-box').hidden = false;
  }

  /** Counts the seconds of `Retry-After`, and offers another try. */
  countDown(seconds) {
    const text = el('span', {});
    const button = el(
      'button',
      {
        type: 'button',
        on: {
          click: () => {
            this.hide();
            this.again();
          },
        },
      },
      'Try again',
    );
    this.wait.replaceChildren(text, ' ', button);
    this.wait.className = 'error mild';
    const until = performance.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      button.disabled = left > 0;
      text.textContent = left > 0 ? `The server asks to wait ${left} s.` : 'You can try again now.';
      if (left <= 0) clearInterval(this.timer);
    };
    clearInterval(this.timer);
    this.timer = setInterval(tick, 250);
    tick();
    show(this.wait, true);
  }
}
