// Elements of the page. What is put into one is text: nothing of a run is ever markup.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const count = (value) => Number(value).toLocaleString("en");

// Long texts and turns of direction stay within their place.
export function said(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const cut = text.length > 4000 ? `${text.slice(0, 4000)} ... ${count(text.length)} characters` : text;
  return element("bdi", {}, cut);
}
