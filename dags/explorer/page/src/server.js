// What the page asks of its server. All addresses are below its own, which holds the token.

async function answer(response) {
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

export const state = () => fetch("api/state").then(answer);

const post = (at, body) =>
  fetch(at, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).then(answer);

export const tryRules = (rules, missing) => post("api/rules", { rules, missing });

export const keep = (rules, missing) => post("api/keep", { rules, missing });

export const trace = (uid) => fetch(`api/trace/${encodeURIComponent(uid)}`).then(answer);

export function pictureOf(row, whole = false) {
  const query = new URLSearchParams();
  if (row.node) query.set("node", row.node);
  if (whole) query.set("whole", "1");
  return `picture/${row.part}/${encodeURIComponent(row.uid)}?${query}`;
}
