/**
 * The frame around a figure: its heading, and its picture and numbers to take away.
 *
 * @module export
 */

import { button, h } from "./dom.js";
import { theme } from "./theme.js";

const MARGIN = 16;
const LINE = 18;

let figures = 0;

/**
 * A figure with a heading and a toolbar.
 *
 * @param {HTMLElement} container Where the figure is put at the end.
 * @param {object} options
 * @param {string} options.title The heading.
 * @param {string} [options.note] What it shows, below the heading; part of the picture too.
 * @param {(() => HTMLCanvasElement)|null} [options.png] The figure as a canvas.
 * @param {(() => string)|null} [options.csv] Its numbers.
 * @param {string} [options.name] What downloaded files are called, without an ending.
 * @returns {HTMLElement} The element to draw in. `figure` and `setTitle(title, note)` hang on what
 *   `frame` returns.
 */
export function figure(container, options) {
  return frame(container, options).body;
}

/** As `figure`, with the parts that change later. */
export function frame(container, { title, note = "", png = null, csv = null, name = "figure" }) {
  const heading = h("h3", { id: `figure-${(figures += 1)}` }, title);
  const caption = h("p", { class: "note" }, note);
  caption.hidden = note === "";
  const tools = h("div", { class: "tools" });
  const body = h("div", { class: "figure-body" });
  const node = h(
    "figure",
    { class: "figure", "aria-labelledby": heading.id },
    h("div", { class: "figure-head" }, heading, tools),
    caption,
    body,
  );
  const picture = () => composed(png(), heading.textContent, caption.textContent);
  const file = (ending) => `${fileName(name)}.${ending}`;
  if (png) {
    tools.append(
      tool("PNG", `Download as PNG: ${title}`, async () => {
        save(await blob(picture()), file("png"));
      }),
      tool("Copy", `Copy picture: ${title}`, async (done) => done(await copyPicture(picture()))),
    );
  }
  if (csv) {
    tools.append(
      tool("CSV", `Download as CSV: ${title}`, () => {
        save(new Blob([csv()], { type: "text/csv;charset=utf-8" }), file("csv"));
      }),
    );
  }
  container.append(node);
  return {
    body,
    node,
    setTitle(newTitle, newNote = "") {
      heading.textContent = newTitle;
      caption.textContent = newNote;
      caption.hidden = newNote === "";
    },
  };
}

/** Hand a file to the browser's downloads. */
export function save(content, name) {
  const link = h("a", { href: URL.createObjectURL(content), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  // Long enough for the download to have begun.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A name that every file system takes. */
function fileName(name) {
  return (
    name
      .replace(/[^\p{L}\p{N}._-]+/gu, "_")
      .replace(/^[._]+/, "")
      .slice(0, 120) || "figure"
  );
}

/** Break text into lines no wider than `width`. */
function wrapped(context, text, width) {
  const lines = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (line !== "" && context.measureText(longer).width > width) {
      lines.push(line);
      line = word;
    } else {
      line = longer;
    }
  }
  if (line !== "") lines.push(line);
  return lines;
}

function tool(text, label, act) {
  const node = button(
    text,
    async () => {
      await act((worked) => {
        node.textContent = worked ? "Copied" : "Not allowed";
        setTimeout(() => (node.textContent = text), 2000);
      });
    },
    { class: "tool", "aria-label": label, title: label },
  );
  return node;
}

/** The drawing below its heading and note, on the page's ground. */
function composed(drawing, title, note) {
  const ratio = Number(drawing.dataset.ratio ?? window.devicePixelRatio) || 1;
  const width = Math.max(drawing.width / ratio, 240);
  const canvas = h("canvas");
  const context = canvas.getContext("2d");
  const font = getComputedStyle(document.body).fontFamily;
  const titleFont = `600 15px ${font}`;
  const noteFont = `12px ${font}`;
  context.font = titleFont;
  const titleLines = wrapped(context, title, width);
  context.font = noteFont;
  const noteLines = wrapped(context, note, width);
  const head = titleLines.length * (LINE + 2) + noteLines.length * LINE + 8;
  canvas.width = Math.round((width + 2 * MARGIN) * ratio);
  canvas.height = Math.round(drawing.height + (head + 2 * MARGIN) * ratio);
  context.scale(ratio, ratio);
  context.fillStyle = theme.token("--surface");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "top";
  let top = MARGIN;
  context.fillStyle = theme.token("--text");
  context.font = titleFont;
  for (const line of titleLines) {
    context.fillText(line, MARGIN, top);
    top += LINE + 2;
  }
  context.fillStyle = theme.token("--muted");
  context.font = noteFont;
  for (const line of noteLines) {
    context.fillText(line, MARGIN, top);
    top += LINE;
  }
  context.drawImage(drawing, MARGIN, top + 8, drawing.width / ratio, drawing.height / ratio);
  return canvas;
}

async function copyPicture(canvas) {
  try {
    const item = new ClipboardItem({ "image/png": blob(canvas) });
    await navigator.clipboard.write([item]);
    return true;
  } catch {
    return false;
  }
}

function blob(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
