// Making elements. A text is always a text: nothing here parses HTML.

/** The element with this id, which the page has. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element. Of `attributes`, `on` is an object of listeners, `class` the class, and a value
 * of null, undefined or false leaves an attribute out. Children are nodes or texts.
 */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'on') {
      for (const [event, listener] of Object.entries(value))
        element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value === true ? '' : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A count with its noun, which has an `s` in the plural. */
export const counted = (count, noun) => `${count} ${noun}${count === 1 ? '' : 's'}`;

/** Sets a text only where it differs, so that screen readers say it once. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides an element. */
export function show(element, isShown) {
  element.hidden = !isShown;
}

/** Offers a text as a file to keep. */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Copies a text. Where the browser forbids it (a page over plain HTTP), `shown` is selected. */
export async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return 'Copied.';
  } catch {
    getSelection().selectAllChildren(shown);
    return 'Selected: copy it with your keyboard.';
  }
}
