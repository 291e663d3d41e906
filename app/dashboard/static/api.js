// Talks to the API. The key is exchanged for a cookie that no script can read; this module keeps nothing.

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The service answered ${status}.`);
    this.status = status;
    this.title = problem.title ?? "The service did not answer as it should";
    this.problem = problem;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached.");
    this.title = "No connection";
  }
}

let onSignedOut = () => {};
export const whenSignedOut = (callback) => { onSignedOut = callback; };

async function answer(method, path, { body, headers = {}, signal } = {}) {
  // The header is what makes the cookie good for changes: other sites cannot send it.
  const sent = { "X-Eggs-Session": "1", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers: sent, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    throw signal?.aborted ? error : new Unreachable();
  }
  if (response.ok) return response;
  const refused = new Refused(response.status, await response.json().catch(() => ({})));
  if (refused.status === 401 && !headers.Authorization) onSignedOut();
  throw refused;
}

export const ask = async (...request) => (await answer(...request)).json();
export const bitmap = async (path, options) => createImageBitmap(await (await answer("GET", path, options)).blob());
export const get = (path, options) => ask("GET", path, options);
export const post = (path, body, options) => ask("POST", path, { body, ...options });

export const signIn = (key) => ask("POST", "/v1/session", { headers: { Authorization: `Bearer ${key}` } });
export const openLink = async (token) => {
  // What else it may be, the service would take for a key.
  if (!/^eggs_share_/.test(token)) throw new Refused(401, { title: "The link is not whole", detail: "A part of it is missing. Ask whoever sent it for it again." });
  return ask("POST", "/v1/shared", { headers: { Authorization: `Bearer ${token}` } });
};
export const signOut = () => ask("DELETE", "/v1/session");

let document_;
export const openapi = () => (document_ ??= get("/openapi.json").catch((error) => { document_ = undefined; throw error; }));
