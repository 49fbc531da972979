// Light, dark, or as the system is.

const THEMES = ['system', 'light', 'dark'];

/** Makes a button choose the theme, and remembers it. */
export function themed(button) {
  const set = (theme) => {
    button.textContent = `Theme: ${theme}`;
    if (theme === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  let theme = 'system';
  try {
    theme = THEMES.find((name) => name === localStorage.getItem('remask-theme')) ?? 'system';
  } catch {
    // no storage: the theme is chosen anew on each visit
  }
  set(theme);
  button.addEventListener('click', () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    set(theme);
    try {
      localStorage.setItem('remask-theme', theme);
    } catch {
      // as above
    }
  });
}
