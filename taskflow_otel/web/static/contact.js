// Whether the server answers, and since when it does not.

import { freeze, real, thaw } from "./now.js";

const PROBE = 2000;

/** `probe()` asks the server for anything. `onChange()` is called when the contact is lost, and when it is back. */
export class Contact {
  #probe;
  #onChange;
  #timer = 0;
  /** When the contact was lost, in milliseconds by the server's clock; null while there is contact. */
  since = null;
  /** When the server was heard last. */
  heardAt = real();

  constructor({ probe, onChange }) {
    this.#probe = probe;
    this.#onChange = onChange;
  }

  /** The server has answered, or has told something by itself. */
  heard() {
    this.heardAt = real();
    if (this.since === null) return;
    this.since = null;
    clearTimeout(this.#timer);
    thaw();
    this.#onChange();
  }

  /** A request got no answer. */
  lost() {
    if (this.since !== null) return;
    this.since = real();
    freeze(this.heardAt);
    this.#again();
    this.#onChange();
  }

  #again() {
    this.#timer = setTimeout(async () => {
      // Its answer is heard like any other.
      await this.#probe().catch(() => null);
      if (this.since !== null) this.#again();
    }, PROBE);
  }
}
