// The tools around a request: its code, its link, its text to copy, and the API key.

import { hasKey, setKey } from './api.js';
import { byId, copy, setText, show } from './dom.js';
import { snippet } from './snippets.js';

const KEPT = 'remask-api-key';

export class Dialogs {
  constructor({ request, fragment, result, onError, onKey }) {
    Object.assign(this, { request, onError, onKey });
    byId('code-open').addEventListener('click', () => this.openCode());
    byId('code-close').addEventListener('click', () => byId('code').close());
    byId('copy-code').addEventListener('click', async () => {
      setText(byId('copy-note'), await copy(byId('snippet').textContent, byId('snippet')));
    });
    for (const one of document.querySelectorAll('input[name="language"]')) {
      one.addEventListener('change', () => this.write());
    }
    byId('copy-result').addEventListener('click', async () => {
      setText(byId('tool-note'), await copy(result(), byId('result')));
    });
    byId('share').addEventListener('click', async () => {
      try {
        history.replaceState(null, '', fragment());
      } catch (cause) {
        return onError(cause);
      }
      const note = byId('tool-note');
      setText(note, location.href);
      const done = await copy(location.href, note);
      setText(
        note,
        done === 'Copied.'
          ? 'The link is in the address bar and was copied.'
          : 'The link is in the address bar.',
      );
      return null;
    });
    this.wireKey();
  }

  openCode() {
    try {
      this.write();
      setText(byId('copy-note'), '');
      byId('code').showModal();
    } catch (cause) {
      this.onError(cause);
    }
  }

  write() {
    const { path, body } = this.request();
    const url = new URL(path, document.baseURI).href;
    const language = document.querySelector('input[name="language"]:checked').value;
    byId('snippet').textContent = snippet(language, { url, body, hasKey: hasKey() });
  }

  wireKey() {
    const [field, keep, open] = ['key', 'key-keep', 'key-open'].map(byId);
    try {
      field.value = sessionStorage.getItem(KEPT) ?? '';
      keep.checked = field.value !== '';
    } catch {
      keep.disabled = true; // no storage
    }
    const use = () => {
      setKey(field.value);
      if (keep.disabled) return;
      if (keep.checked && field.value) sessionStorage.setItem(KEPT, field.value);
      else sessionStorage.removeItem(KEPT);
    };
    setKey(field.value);
    field.addEventListener('input', use);
    field.addEventListener('change', () => this.onKey());
    keep.addEventListener('change', use);
    open.addEventListener('click', () => {
      const box = byId('key-box');
      show(box, box.hidden);
      open.setAttribute('aria-expanded', String(!box.hidden));
      if (!box.hidden) field.focus();
    });
  }
}
