/**
 * What the server has, over HTTP.
 *
 * The browser revalidates with ETags. Besides that, decoded replies are kept: while a run has no new
 * data (`stamp`), they are served without a request.
 *
 * @module api
 */

const KEPT = 48;
const READERS = {
  float32: (buffer, at, length) => new Float32Array(buffer, at, length),
  float64: (buffer, at, length) => new Float64Array(buffer, at, length),
  int32: (buffer, at, length) => new Int32Array(buffer, at, length),
  uint8: (buffer, at, length) => new Uint8Array(buffer, at, length),
};

const replies = new Map();
const stamps = new Map();

/** What the server refused, or a server that did not answer (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status The HTTP status, or 0.
   * @param {string} message The server's sentence.
   */
  constructor(status, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/**
 * A JSON reply.
 *
 * @param {string} path Such as `data/runs`.
 * @param {object} [query] Parameters; `null` and `undefined` are left out.
 * @param {{signal?: AbortSignal}} [options]
 */
export function getJson(path, query = {}, options = {}) {
  return get(path, query, options, (response) => response.json());
}

/**
 * A binary reply: its header and its arrays.
 *
 * @returns {Promise<{meta: object, arrays: Object<string, {data: ArrayBufferView, shape: number[]}>}>}
 */
export function getArrays(path, query = {}, options = {}) {
  return get(path, query, options, async (response) => decode(await response.arrayBuffer()));
}

/**
 * Note the state that a run's data is in. Replies on it that were got in the same state are kept.
 *
 * @param {{run: string, group: string}} run
 * @param {string} version What changes when the run has new data.
 */
export function setStamp(run, version) {
  stamps.set(stampKey(run), version);
}

/** The absolute address of a path below the plugin's, whatever prefix TensorBoard is served under. */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, String(value));
  }
  return url;
}

async function get(path, query, { signal }, read) {
  const url = address(path, query).href;
  const stamp = "run" in query ? stamps.get(stampKey(query)) : undefined;
  const kept = replies.get(url);
  if (kept && stamp !== undefined && kept.stamp === stamp) return remember(url, kept).value;
  const response = await request(url, signal);
  const tag = response.headers.get("ETag");
  if (kept && tag && kept.tag === tag) return remember(url, { ...kept, stamp }).value;
  let value;
  try {
    value = await read(response);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(response.status, `The reply of ${path} could not be read: ${error.message}`);
  }
  return remember(url, { tag, stamp, value }).value;
}

async function request(url, signal) {
  let response;
  try {
    response = await fetch(url, { cache: "no-cache", signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "TensorBoard does not answer; is it still running?");
  }
  if (response.ok) return response;
  let sentence = `TensorBoard answered ${response.status}.`;
  try {
    const body = await response.json();
    if (typeof body.error === "string") sentence = body.error;
  } catch {
    // Not one of this plugin's replies: the status is all there is to tell.
  }
  throw new ApiError(response.status, sentence);
}

function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const meta = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const { name, dtype, shape, offset } of meta.arrays) {
    const size = shape.reduce((product, extent) => product * extent, 1);
    arrays[name] = { data: READERS[dtype](buffer, 4 + length + offset, size), shape };
  }
  return { meta, arrays };
}

function remember(url, reply) {
  // Taken out and put back, so that the least recently used comes first.
  replies.delete(url);
  replies.set(url, reply);
  while (replies.size > KEPT) replies.delete(replies.keys().next().value);
  return reply;
}

function stampKey({ run, group }) {
  return JSON.stringify([run, group ?? null]);
}
