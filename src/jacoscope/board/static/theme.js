/**
 * Light or dark, as TensorBoard around this page is.
 *
 * @module theme
 */

const listeners = new Set();
let dark = false;

export const theme = {
  get isDark() {
    return dark;
  },

  /** The value of a CSS custom property such as `--muted`, for drawing on a canvas. */
  token(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  },
};

/**
 * Call a function whenever the theme changes.
 *
 * @param {() => void} listener
 * @returns {() => void} Ends that.
 */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Take over the theme of the page around this one, now and whenever it changes. */
export function startTheme() {
  const host = hostBody();
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const read = () => (host ? host.classList.contains("dark-mode") : preferred.matches);
  const apply = () => {
    dark = read();
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    for (const listener of [...listeners]) listener();
  };
  if (host) new MutationObserver(apply).observe(host, { attributeFilter: ["class"] });
  else preferred.addEventListener("change", apply);
  apply();
}

/** A colour with an opacity, for fills under lines. */
export function faded(color, opacity) {
  const alpha = Math.round(opacity * 255)
    .toString(16)
    .padStart(2, "0");
  return /^#[0-9a-f]{6}$/i.test(color) ? color + alpha : color;
}

function hostBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null;
  }
}
