/**
 * Elements without markup strings: text of users reaches the page through text nodes only.
 *
 * @module dom
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element.
 *
 * @param {string} tag Its name.
 * @param {object|null} props `style`: CSS properties; `on`: event listeners by type; `value`,
 *   `checked` and the like are set as properties; all else as attributes. `null`, `undefined` and
 *   `false` leave an attribute out, `true` sets it without a value.
 * @param {...*} children Text, numbers, nodes, or arrays of these; `null` and `false` are passed over.
 * @returns {HTMLElement}
 */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** An SVG element, by the same rules as `h`. */
export function svg(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

/** Remove all children of a node, and return it. */
export function clear(node) {
  node.replaceChildren();
  return node;
}

/** Put these children in place of all that a node has, and return it. */
export function replace(node, ...children) {
  clear(node);
  append(node, children);
  return node;
}

/** Text that screen readers read and nobody sees. */
export function unseen(text) {
  return h("span", { class: "unseen" }, text);
}

/** Text that may be broken after the signs that part names, such as those of runs. */
export function breakable(text) {
  return String(text)
    .split(/(?<=[/.:|])/)
    .flatMap((piece, at) => (at > 0 ? [h("wbr"), piece] : [piece]));
}

/**
 * A control with its visible label before it.
 *
 * @param {string} text The label.
 * @param {HTMLElement} control An input or select.
 */
export function labelled(text, control) {
  return h("label", { class: "field" }, h("span", { class: "field-name" }, text), control);
}

/**
 * A select element.
 *
 * @param {object} options
 * @param {{value: string, text: string, group?: string}[]} options.choices In order; those of one
 *   `group` stand together under its name.
 * @param {string|null} options.value The one that is chosen.
 * @param {(value: string) => void} options.onChange
 * @param {object} [options.props] More attributes.
 */
export function select({ choices, value, onChange, props = {} }) {
  const node = h("select", { ...props, on: { change: () => onChange(node.value) } });
  const groups = new Map();
  for (const choice of choices) {
    let parent = node;
    if (choice.group) {
      if (!groups.has(choice.group)) {
        groups.set(choice.group, node.appendChild(h("optgroup", { label: choice.group })));
      }
      parent = groups.get(choice.group);
    }
    parent.appendChild(h("option", { value: choice.value }, choice.text));
  }
  if (value !== null && value !== undefined) node.value = value;
  return node;
}

/** A button that is not a submit button. */
export function button(text, onClick, props = {}) {
  return h("button", { type: "button", ...props, on: { click: onClick } }, text);
}

const PROPERTIES = new Set(["value", "checked", "disabled", "indeterminate", "open", "selected"]);

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "style") {
      for (const [property, text] of Object.entries(value ?? {})) {
        if (text === null || text === undefined) continue;
        node.style.setProperty(
          property.startsWith("--") ? property : dashed(property),
          String(text),
        );
      }
    } else if (name === "on") {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (PROPERTIES.has(name) && name in node) {
      node[name] = value;
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function dashed(name) {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
