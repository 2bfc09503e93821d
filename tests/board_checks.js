// What `board_checks.py` asks the page: an object of functions without arguments.
({
  /** Each text that can be seen: its size, and its contrast with what lies below it. */
  texts() {
    const rgba = (text) => {
      const [r, g, b, alpha = 1] = text.match(/[\d.]+/g).map(Number);
      const scale = text.startsWith("color(srgb") ? 255 : 1;
      return [r * scale, g * scale, b * scale, alpha];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const ground = (node) => {
      if (!node) return [255, 255, 255];
      const color = rgba(getComputedStyle(node).backgroundColor);
      return color[3] === 1 ? color.slice(0, 3) : over(color, ground(node.parentElement));
    };
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const light = (color) => {
      const [r, g, b] = color.map((c) => linear(c / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const unseen = ".unseen, :disabled, option, style, svg"; // an svg holds signs, not texts
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const parent = node.parentElement;
      const { width, height } = parent.getBoundingClientRect();
      const isSeen = parent.checkVisibility({ opacityProperty: true, visibilityProperty: true });
      const text = node.textContent.trim();
      if (text === "" || !isSeen || width < 2 || height < 2 || parent.closest(unseen)) continue;
      const style = getComputedStyle(parent);
      const below = ground(parent);
      const shades = [light(over(rgba(style.color), below)), light(below)];
      found.push({
        text: text.slice(0, 60),
        size: parseFloat(style.fontSize),
        contrast: (Math.max(...shades) + 0.05) / (Math.min(...shades) + 0.05),
      });
    }
    return found;
  },

  /** What is wider than what it stands in, where nothing scrolls. */
  wide() {
    const parts = document.querySelectorAll("main, #view, .view, .view > *, .figure");
    return [document.scrollingElement, ...parts]
      .filter((node) => {
        const isRoot = node === document.scrollingElement;
        const doesScroll = !isRoot && getComputedStyle(node).overflowX !== "visible";
        return node.clientWidth > 0 && node.scrollWidth > node.clientWidth + 1 && !doesScroll;
      })
      .map((node) => `${node.tagName}.${node.className}: ${node.scrollWidth} > ${node.clientWidth}`);
  },

  /** Controls that cannot have the focus, or that look the same with it as without. */
  unfocused() {
    const controls = "button, select, input, textarea, a[href], canvas[tabindex], [tabindex='0']";
    const isOpen = (node) => node.checkVisibility({ visibilityProperty: true }) && !node.disabled;
    const look = (node) => {
      const { outline, boxShadow, borderColor, backgroundColor } = getComputedStyle(node);
      return [outline, boxShadow, borderColor, backgroundColor].join();
    };
    return [...document.querySelectorAll(controls)]
      .filter((node) => isOpen(node) && node.tabIndex === 0)
      .filter((node) => {
        node.blur();
        const before = look(node);
        node.focus({ focusVisible: true });
        return document.activeElement !== node || look(node) === before;
      })
      .map((node) => node.outerHTML.slice(0, 160));
  },
})
