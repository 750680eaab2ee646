// The REST API. Addresses are relative to the page, so that they work behind any proxy.

import { parse } from "./exact.js";
import { correct } from "./now.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const PATIENCE = 15000;

export class Api {
  #csrf = null;

  /** `onAnswer(answered)` is called after each request: whether the server has answered, with whatever. */
  constructor(/** @type {(answered: boolean) => void} */ onAnswer = () => {}) {
    this.onAnswer = onAnswer;
  }

  async session() {
    const asked = Date.now();
    const session = await this.get("session");
    correct(session.now, asked, Date.now());
    this.#csrf = session.csrf_token;
    return session;
  }

  async get(path, params) {
    return parse(await (await this.#send("GET", withParams(path, params))).text());
  }

  /** A page of a list, and the cursor of the next page. */
  async list(path, params) {
    const response = await this.#send("GET", withParams(path, params));
    return { items: parse(await response.text()), next: response.headers.get("X-Next-Cursor") };
  }

  /** A page of tasks with the total (a lower bound if not `exact`), the cursor of the next page, and how far a search by arguments has come. */
  async tasks(params) {
    const response = await this.#send("GET", withParams("./", params));
    return {
      tasks: parse(await response.text()),
      total: Number(response.headers.get("X-Total-Count")),
      exact: response.headers.get("X-Total-Count-Exact") !== "false",
      next: response.headers.get("X-Next-Cursor"),
      searched: Number(response.headers.get("X-Searched-Count")),
      unsearchable: Number(response.headers.get("X-Unsearchable-Count")),
      backTo: response.headers.get("X-Searched-Back-To"),
    };
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{params?: Record<string, unknown>, body?: unknown}} [given] `body`: a value, or `{text}` with its JSON
   */
  async act(method, path, { params, body } = {}) {
    const response = await this.#send(method, withParams(path, params), body);
    return response.status === 204 ? null : response.json();
  }

  /**
   * @param {string} method
   * @param {string} address
   * @param {any} [body]
   */
  async #send(method, address, body) {
    const headers = { Accept: "application/json" };
    if (this.#csrf && method !== "GET") headers["X-CSRF-Token"] = this.#csrf;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      // An action may take long, and must not be broken off.
      const signal = method === "GET" ? AbortSignal.timeout(PATIENCE) : undefined;
      response = await fetch(address, { method, headers, signal, body: body === undefined ? undefined : (body.text ?? JSON.stringify(body)) });
    } catch {
      this.onAnswer(false);
      throw new ApiError(0, "The server cannot be reached.");
    }
    this.onAnswer(true);
    // An application may lead to its own login page instead of answering 401.
    if (response.status === 401 || response.redirected) {
      location.assign(`login?${new URLSearchParams({ next: location.search.slice(1) })}`);
      throw new ApiError(401, "Log in first.");
    }
    if (!response.ok && !(address === "health" && response.status === 503)) {
      const answer = await response.json().catch(() => ({}));
      throw new ApiError(response.status, answer.detail ?? `The server answered ${response.status}.`);
    }
    return response;
  }
}

function withParams(path, params) {
  const given = Object.entries(params ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}
