/**
 * Drag with pointer events, one code for mouse, pen and touch: the handle captures the pointer, and
 * CSS keeps the browser from scrolling with it (`touch-action: none`).
 */

const THRESHOLD = 4;
/** Within this distance of an edge of the window the page scrolls, in px. */
const EDGE = 90;
const SPEED = 14;

/**
 * Let a handle be dragged.
 *
 * @param handle the element that is grabbed.
 * @param on `start()`, `move(x, y)`, `drop(x, y)`, `end()`; `end` comes last in every case.
 */
export function makeDraggable(handle, on) {
  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    follow(handle, event, on);
  });
}

function follow(handle, first, on) {
  let started = false;
  let at = { x: first.clientX, y: first.clientY };
  let frame = null;

  const scroll = () => {
    const below = at.y - (window.innerHeight - EDGE);
    const above = EDGE - at.y;
    const by = below > 0 ? Math.min(below / 4, SPEED) : above > 0 ? -Math.min(above / 4, SPEED) : 0;
    if (by !== 0) {
      window.scrollBy(0, by);
      on.move(at.x, at.y);
    }
    frame = requestAnimationFrame(scroll);
  };

  const move = (event) => {
    if (event.pointerId !== first.pointerId) return;
    at = { x: event.clientX, y: event.clientY };
    if (!started && Math.hypot(at.x - first.clientX, at.y - first.clientY) < THRESHOLD) return;
    if (!started) {
      started = true;
      on.start();
      frame = requestAnimationFrame(scroll);
    }
    on.move(at.x, at.y);
  };

  const finish = (dropped) => {
    listening.abort();
    cancelAnimationFrame(frame);
    if (!started) return;
    if (dropped) on.drop(at.x, at.y);
    on.end();
  };

  const listening = new AbortController();
  const { signal } = listening;
  const own = (then) => (event) => {
    if (event.pointerId === first.pointerId) then();
  };
  handle.addEventListener("pointermove", move, { signal });
  handle.addEventListener("pointerup", own(() => finish(true)), { signal });
  handle.addEventListener("pointercancel", own(() => finish(false)), { signal });
  handle.addEventListener("lostpointercapture", own(() => finish(false)), { signal });
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Escape") finish(false);
    },
    { signal },
  );
  handle.setPointerCapture(first.pointerId);
}

/**
 * Tell where a drop at a point would go.
 *
 * @param y the pointer's height in the window.
 * @param rects the tiers' rectangles from the top; their edges stand for the gaps between them.
 * @returns `{gap}` or `{tier}`.
 */
export function dropTarget(y, rects) {
  for (const [index, { top, bottom }] of rects.entries()) {
    const band = Math.min(28, (bottom - top) / 4);
    if (y < top + band) return { gap: index };
    if (y <= bottom - band) return { tier: index };
  }
  return { gap: rects.length };
}
