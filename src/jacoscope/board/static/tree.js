/**
 * Parameters as a tree by the dots in their names, in the model's order.
 *
 * @module tree
 */

import { h, replace } from "./dom.js";

const INDENT = 12;

/**
 * @typedef {object} TreeNode
 * @property {string} path Names it among the nodes.
 * @property {string} label What it adds to the name of the node above it.
 * @property {number|null} row Its row in the data; null for groups.
 * @property {TreeNode[]} children
 * @property {number[]} rows All rows at and below it.
 */

/**
 * A tree of names.
 *
 * @param {{name: string, kind: string}[]} rows In the model's order. Rows that measure several
 *   parameters as one (kinds "all", "group", "layer") come last, under a heading of their own.
 * @param {{fewest?: number}} [options] Groups of parameters alone, such as a layer's weight and bias,
 *   become groups only where they have at least this many.
 * @returns {TreeNode[]}
 */
export function treeOf(rows, { fewest = 2 } = {}) {
  const root = group("", "");
  const wholes = group("(measured as a whole)", "Measured as a whole");
  rows.forEach(({ name, kind }, row) => {
    if (isWhole(kind)) wholes.children.push(leaf(name, name, row));
    else insert(root, name, row);
  });
  root.children = root.children.flatMap((node) => flattened(node, fewest));
  for (const node of root.children) collect(node);
  if (wholes.children.length > 0) {
    collect(wholes);
    root.children.push(wholes);
  }
  return root.children.map(squeezed);
}

/** Whether a row of this kind measures several parameters as one. */
export function isWhole(kind) {
  return kind === "all" || kind === "group" || kind === "layer";
}

/**
 * The nodes that are shown, from top to bottom.
 *
 * @param {TreeNode[]} nodes
 * @param {(node: TreeNode) => boolean} isOpen Whether a group shows what is in it.
 * @returns {{node: TreeNode, depth: number, isGroup: boolean, isOpen: boolean}[]}
 */
export function shownNodes(nodes, isOpen, depth = 0) {
  return nodes.flatMap((node) => {
    const isGroup = node.children.length > 0;
    const open = isGroup && isOpen(node);
    const item = { node, depth, isGroup, isOpen: open };
    return open ? [item, ...shownNodes(node.children, isOpen, depth + 1)] : [item];
  });
}

/**
 * Paths of the groups to close, the innermost first, so that about `most` rows are shown; never so
 * many that fewer than `fewest` are left.
 */
export function closedAtFirst(nodes, most, fewest = 6) {
  const closed = new Set();
  const isOpen = (node) => !closed.has(node.path);
  const depths = new Map();
  const visit = (node, depth) => {
    if (node.children.length === 0) return;
    if (!depths.has(depth)) depths.set(depth, []);
    depths.get(depth).push(node.path);
    for (const child of node.children) visit(child, depth + 1);
  };
  for (const node of nodes) visit(node, 0);
  for (const depth of [...depths.keys()].sort((a, b) => b - a)) {
    if (shownNodes(nodes, isOpen).length <= most) break;
    for (const path of depths.get(depth)) closed.add(path);
    if (shownNodes(nodes, isOpen).length >= fewest) continue;
    for (const path of depths.get(depth)) closed.delete(path);
    break;
  }
  return closed;
}

/**
 * The list of a tree: one line for each node that is shown, walked by arrow keys.
 *
 * @param {{label: string, onToggle: (node: TreeNode) => void, onSelect: (node: TreeNode) => void}} options
 * @returns {{node: HTMLElement, set: (items: object[], options: object) => void}} `set` takes what
 *   `shownNodes` gives, and `rowHeight`, `selected` (a set of rows).
 */
export function treeList({ label, onToggle, onSelect }) {
  const node = h("div", {
    class: "tree",
    role: "tree",
    "aria-label": label,
    "aria-multiselectable": "true",
  });
  let items = [];
  let active = null;
  let drawn = "";

  node.addEventListener("keydown", (event) => {
    const at = items.findIndex((item) => item.node.path === active);
    const item = items[at];
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const { key } = event;
    if (key === "ArrowDown") go(at + 1);
    else if (key === "ArrowUp") go(at - 1);
    else if (key === "Home") go(0);
    else if (key === "End") go(items.length - 1);
    else if (key === "ArrowRight" && item.isGroup) item.isOpen ? go(at + 1) : onToggle(item.node);
    else if (key === "ArrowLeft" && item.isOpen) onToggle(item.node);
    else if (key === "ArrowLeft") go(parentOf(at));
    else if (key === "Enter" || key === " ") act(item);
    else return;
    event.preventDefault();
  });

  function act(item) {
    active = item.node.path;
    if (item.isGroup) onToggle(item.node);
    else onSelect(item.node);
  }

  function parentOf(at) {
    let above = at - 1;
    while (above >= 0 && items[above].depth >= items[at].depth) above -= 1;
    return above;
  }

  function go(at) {
    if (at < 0 || at >= items.length) return;
    active = items[at].node.path;
    for (const [place, line] of [...node.children].entries()) line.tabIndex = place === at ? 0 : -1;
    node.children[at].focus();
  }

  return {
    node,
    set(shown, { rowHeight, selected }) {
      items = shown;
      if (!items.some((item) => item.node.path === active)) active = items[0]?.node.path ?? null;
      const key = JSON.stringify([
        rowHeight,
        items.map((item) => [item.node.path, item.isOpen, selected.has(item.node.row)]),
      ]);
      if (key === drawn) return;
      drawn = key;
      const hadFocus = node.contains(document.activeElement);
      replace(
        node,
        items.map((item) => line(item, { rowHeight, selected, active, act })),
      );
      if (hadFocus) node.querySelector('[tabindex="0"]')?.focus();
    },
  };
}

function line({ node, depth, isGroup, isOpen }, { rowHeight, selected, active, act }) {
  const isSelected = node.row !== null && selected.has(node.row);
  const title = isGroup ? `${node.path}: ${node.rows.length} rows` : node.path;
  return h(
    "div",
    {
      class: `tree-line${isGroup ? " group" : ""}${isSelected ? " selected" : ""}`,
      role: "treeitem",
      "aria-level": depth + 1,
      "aria-expanded": isGroup ? String(isOpen) : null,
      "aria-selected": isGroup ? null : String(isSelected),
      "aria-label": title,
      title,
      tabindex: node.path === active ? "0" : "-1",
      "data-path": node.path,
      style: { height: `${rowHeight}px`, paddingLeft: `${depth * INDENT}px` },
      on: { click: () => act({ node, isGroup }) },
    },
    h(
      "span",
      { class: "tree-sign", "aria-hidden": "true" },
      isGroup ? (isOpen ? "▾" : "▸") : isSelected ? "●" : "",
    ),
    h("span", { class: "tree-label" }, node.label),
    isGroup && !isOpen
      ? h("span", { class: "tree-count", "aria-hidden": "true" }, `${node.rows.length}`)
      : null,
  );
}

function group(path, label) {
  return { path, label, row: null, children: [], rows: [] };
}

function leaf(path, label, row) {
  return { path, label, row, children: [], rows: [row] };
}

function insert(root, name, row) {
  const parts = name.split(".");
  let node = root;
  parts.slice(0, -1).forEach((part, depth) => {
    const path = parts.slice(0, depth + 1).join(".");
    let next = node.children.find((child) => child.path === path && child.row === null);
    if (!next) node.children.push((next = group(path, part)));
    node = next;
  });
  node.children.push(leaf(name, parts[parts.length - 1], row));
}

function collect(node) {
  if (node.row === null) node.rows = node.children.flatMap(collect);
  return node.rows;
}

/** Small groups of parameters alone give way to what is in them. */
function flattened(node, fewest) {
  const isSmall =
    node.row === null &&
    node.children.length < fewest &&
    node.children.every((child) => child.row !== null);
  if (isSmall) {
    return node.children.map((child) => ({ ...child, label: `${node.label}.${child.label}` }));
  }
  return [{ ...node, children: node.children.flatMap((child) => flattened(child, fewest)) }];
}

/** A group with one child is written in one line with it. */
function squeezed(node) {
  if (node.children.length === 1) {
    const [child] = node.children;
    return squeezed({ ...child, label: `${node.label}.${child.label}` });
  }
  return { ...node, children: node.children.map(squeezed) };
}
