/** What this browser keeps. It may keep nothing (full, or forbidden): callers go on without. */

/** Read JSON that this browser keeps, or null. */
export function read(key, store = "localStorage") {
  try {
    return JSON.parse(window[store].getItem(key));
  } catch {
    return null;
  }
}

/** Keep JSON in this browser, if it lets us. */
export function write(key, value, store = "localStorage") {
  try {
    window[store].setItem(key, JSON.stringify(value));
  } catch {
    // The server's copy has to do.
  }
}

/** Remove what this browser keeps under a key. */
export function remove(key) {
  try {
    window.localStorage.removeItem(key);
  } catch {
    // Nothing is kept.
  }
}

/** Return the keys that begin with a prefix. */
export function keysFrom(prefix) {
  try {
    return Object.keys(window.localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [];
  }
}
