// Answers that come when they are not wanted any more.

/**
 * What `read()` answers. It is null, also in place of an error, if `about()` says something else by then than when it was asked: a slow answer
 * to an earlier choice must not replace the one to a later choice.
 *
 * @template T
 * @param {() => string} about
 * @param {() => Promise<T>} read
 * @returns {Promise<T | null>}
 */
export async function stillWanted(about, read) {
  const asked = about();
  try {
    const answer = await read();
    return about() === asked ? answer : null;
  } catch (error) {
    if (about() === asked) throw error;
    return null;
  }
}
