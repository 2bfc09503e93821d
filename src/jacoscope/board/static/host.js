/**
 * Messages of the TensorBoard around this page.
 *
 * @module host
 */

/**
 * Call a function whenever TensorBoard has reloaded its data, by its button or its timer.
 *
 * @param {() => void} listener
 */
export function onHostReload(listener) {
  if (window.parent === window) return;
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message.isReply) return;
    port1.postMessage(
      JSON.stringify({
        type: message.type,
        id: message.id,
        payload: null,
        error: null,
        isReply: true,
      }),
    );
    if (message.type === "experimental.DataReloaded") listener();
  };
  // The port is all that is handed over, and TensorBoard's own page takes no other origin's.
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}
