/** Build SVG elements. Text only goes in as text nodes, as in `dom.js`. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an SVG element.
 *
 * @param tag the tag, with classes after dots: "text.tick".
 * @param attributes numbers and strings.
 * @param children elements and texts.
 */
export function s(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElementNS(SVG, name);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}
