/**
 * Mouse and keyboard of a heat map.
 *
 * @module heat_pointer
 */

const DRAG = 6;

/**
 * Let a heat map follow the pointer and the arrow keys.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {object} map `locate`, `point`, `move`, `click`, `brushing` and `brushed` of a heat map.
 */
export function watchPointer(canvas, map) {
  let start = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (value, end) => Math.min(Math.max(value, 0), end - 1);
    return map.locate(
      inside(event.clientX - box.left, box.width),
      inside(event.clientY - box.top, box.height),
    );
  };
  const span = (event) => {
    const [from, to] = [start.cell.column, at(event)?.column ?? start.cell.column];
    return [Math.min(from, to), Math.max(from, to)];
  };
  const isDrag = (event) => start !== null && Math.abs(event.clientX - start.x) >= DRAG;

  canvas.addEventListener("pointermove", (event) => {
    map.point(at(event));
    if (start?.cell && isDrag(event) && map.spec.onBrush) map.brushing(span(event));
  });
  canvas.addEventListener("pointerleave", () => {
    if (start === null) map.point(null);
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = { x: event.clientX, cell: at(event) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const isBrush = start.cell && isDrag(event) && map.spec.onBrush;
    const range = isBrush ? span(event) : null;
    start = null;
    map.brushing(null);
    if (range) map.brushed(range);
    else map.click(event);
  });
  canvas.addEventListener("pointercancel", () => {
    start = null;
    map.brushing(null);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const far = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowUp: [-far, 0],
      ArrowDown: [far, 0],
      ArrowLeft: [0, -far],
      ArrowRight: [0, far],
      Home: [0, -Infinity],
      End: [0, Infinity],
      PageUp: [-10, 0],
      PageDown: [10, 0],
    };
    if (event.key in moves) map.move(...moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") map.click(event);
    else if (event.key === "Escape") map.point(null);
    else return;
    event.preventDefault();
  });
}
