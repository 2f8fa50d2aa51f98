// Elements are made, never parsed from text: nothing that a model says or a file is called becomes markup.

/** An element with these properties (or attributes, where there is no such property) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** An SVG element with these attributes. */
export function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** One of the symbols of index.html, as an ornament beside words. */
export function icon(name) {
  return draw("svg", { class: "icon", "aria-hidden": "true" }, draw("use", { href: `#${name}` }));
}

/** A button with a cross on it; `label` says what it takes away. */
export function crossButton(className, label, onclick) {
  return make("button", { type: "button", className, onclick, ariaLabel: label, title: label }, icon("close"));
}

export const find = (selector) => document.querySelector(selector);
