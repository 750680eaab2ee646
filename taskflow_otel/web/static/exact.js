// Texts and numbers as what they are: integers that a JavaScript number would round, and characters that nobody sees.

const LARGE = /\d{16}/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARK = "\ue000";
const MARKED = new RegExp(`"${MARK}(-?\\d+)${MARK}"`, "g");

/** Parse JSON; an integer that a number would round becomes a BigInt. */
export function parse(text) {
  if (!LARGE.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKENS, (token) => {
    // What people write must not pass for a number.
    if (token.startsWith('"')) return token.replaceAll(MARK, "\\\\ue000");
    return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${MARK}${token}${MARK}"` : token;
  });
  return JSON.parse(marked, (_, value) => (typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(1, -1)) : value));
}

/** JSON text of a value of `parse`. */
export function stringify(value, indent) {
  return JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${MARK}${item}${MARK}` : item), indent)?.replace(MARKED, "$1");
}

// Controls except tab and line breaks; marks, overrides and isolates of the writing direction; characters without a width that are not
// part of other ones.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** The text with a name in place of each character that cannot be seen, or that changes how the others are shown. */
export function visible(text) {
  return String(text).replace(UNSEEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
