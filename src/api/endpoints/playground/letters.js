// How tokens are spelled: their texts, and letters whose bytes are spread over several tokens. A
// token that has a part of a letter carries its `bytes`; its `text` is no use then.

/** Stands for a part of a letter whose other bytes are not there. */
export const PART = '◌';

/** A token as people read it: its text, or its bytes if it has a part of a letter. */
export function label({ token, text, bytes }) {
  if (bytes?.length) {
    const hex = bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, '0'));
    return `${hex.length === 1 ? 'byte' : 'bytes'} ${hex.join(' ')}`;
  }
  return text ?? `#${token}`; // a model without a tokenizer has only numbers
}

/** A token in a sentence: its text in quotes, and white space by its name. */
export function said({ token, text, bytes }) {
  if (bytes?.length) return label({ bytes });
  if (text === null || text === undefined) return `token ${token}`;
  const names = { ' ': 'space', '\n': 'line break', '\t': 'tab' };
  return names[text] ?? `“${text.replaceAll('\n', '↵')}”`;
}

/**
 * What each cell draws: { text, letter, isJoined }. A letter of several cells is the text of its
 * first cell, and `letter` of all of them; the others are `isJoined` to the cell before. Bytes of
 * no letter are drawn as a placeholder.
 */
export function spelled(cells) {
  const drawn = cells.map((cell) => ({ text: label(cell), letter: null, isJoined: false }));
  for (let from = 0; from < cells.length; from += 1) {
    let to = from;
    while (cells[to]?.bytes?.length) to += 1;
    if (to > from) join(cells, drawn, from, to);
    from = to;
  }
  return drawn;
}

/** The same for neighbouring cells that all have bytes. */
function join(cells, drawn, from, to) {
  const [bytes, owners] = [[], []];
  for (let at = from; at < to; at += 1) {
    drawn[at].text = '';
    for (const byte of cells[at].bytes) {
      bytes.push(byte);
      owners.push(at);
    }
  }
  for (let place = 0; place < bytes.length;) {
    const letter = letterAt(bytes, place);
    const first = owners[place];
    const length = letter === null ? 1 : lengthOf(bytes[place]);
    if (letter !== null) {
      drawn[first].text += letter;
      const last = owners[place + length - 1];
      for (let at = first; at <= last && last > first; at += 1) {
        drawn[at].letter = letter;
        drawn[at].isJoined ||= at > first;
      }
    } else if (!drawn[first].text.endsWith(PART)) drawn[first].text += PART;
    place += length;
  }
}

/** Bytes of the letter that begins with this one, in UTF-8; 0 if none does. */
function lengthOf(byte) {
  if (byte < 0x80) return 1;
  if (byte < 0xc2 || byte > 0xf4) return 0;
  if (byte < 0xe0) return 2;
  return byte < 0xf0 ? 3 : 4;
}

/** The letter whose bytes begin at `place`; null if they are none, or not all there. */
function letterAt(bytes, place) {
  const own = bytes.slice(place, place + lengthOf(bytes[place]));
  if (own.length === 0 || own.length < lengthOf(bytes[place])) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(own));
  } catch {
    return null;
  }
}
