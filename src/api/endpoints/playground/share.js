// Settings in a link's fragment, which browsers do not send to servers. Keys are never in it.

const MARK = '#play=';
const LONGEST = 100_000; // characters; longer than any settings that a link carries well

export const isLink = (fragment) => fragment.startsWith(MARK);

/** The fragment of settings. Throws an error if they are too long for a link. */
export function fragmentOf(settings) {
  const bytes = new TextEncoder().encode(JSON.stringify(settings));
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
  const fragment = MARK + btoa(text).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
  if (fragment.length > LONGEST) {
    throw new Error('The settings are too long for a link. Export a run instead.');
  }
  return fragment;
}

/** The settings of a fragment; null for one that has none, or that is damaged. */
export function settingsOf(fragment) {
  if (!isLink(fragment) || fragment.length > LONGEST) return null;
  try {
    const text = atob(fragment.slice(MARK.length).replaceAll('-', '+').replaceAll('_', '/'));
    const settings = JSON.parse(
      new TextDecoder().decode(Uint8Array.from(text, (one) => one.charCodeAt(0))),
    );
    return settings !== null && typeof settings === 'object' && !Array.isArray(settings)
      ? settings
      : null;
  } catch {
    return null;
  }
}
