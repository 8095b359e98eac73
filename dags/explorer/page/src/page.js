// The page: rules on the left, scores above, rows below; what one changes, all show.
import { Charts } from "./charts.js";
import { $, count, element, said } from "./elements.js";
import { keep, pictureOf, state, trace, tryRules } from "./server.js";

const ROWS = 40;
// Shown first, where a run has them.
const FIRST = ["clip_score", "sharpness", "caption_words", "aspect", "width", "caption_language", "duplicate_kind"];

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const named = (text) => `"${text.replaceAll('"', '""')}"`;

let facts;
let charts;
let rules = [];
let shown = [];
let offset = 0;
let asked = 0;
let reading = "";

async function begin() {
  facts = await state();
  $("run").textContent = facts.run;
  document.title = `${facts.run} - Gristmill explorer`;
  while (!facts.ready && !facts.failure) {
    $("counts").textContent = `Reading rows: part ${facts.done} of ${facts.parts}, ${count(facts.rows)} rows.`;
    await new Promise((resolve) => setTimeout(resolve, 150));
    facts = await state();
  }
  if (facts.failure) {
    $("counts").textContent = facts.failure;
    return;
  }
  rules = facts.rules.map((rule) => ({ ...rule }));
  charts = new Charts($("charts"));
  charts.watch(() => {
    $("from-brush").disabled = !charts.predicate();
    rows();
  });
  choices();
  counted(facts.counts);
  await rows();
  document.body.dataset.ready = "yes";
  await restOfRows();
  document.body.dataset.whole = "yes";
}

// What is shown first is of the first parts; the others come while it is looked at.
async function restOfRows() {
  if (facts.done === facts.parts) return;
  let now = facts;
  while (now.done < now.parts || now.applied < now.rows) {
    reading = `; reading part ${now.done + 1} of ${now.parts}`;
    $("counts").textContent = $("counts").textContent.replace(/(; reading part .*)?$/, reading);
    await new Promise((resolve) => setTimeout(resolve, 300));
    now = await state();
    if (now.failure) throw new Error(now.failure);
  }
  reading = "";
  counted(now.counts);
  await charts.refresh();
  await rows();
}

function choices() {
  const there = new Map(facts.columns.map((column) => [column.name, column]));
  shown = FIRST.filter((name) => there.has(name)).map((name) => there.get(name));
  $("more-scores").replaceChildren(
    element("option", { value: "" }, "another score"),
    ...facts.columns.map((column) => element("option", { value: column.name }, column.name)),
  );
  $("more-scores").onchange = (event) => {
    const column = there.get(event.target.value);
    if (column && !shown.includes(column)) shown = [column, ...shown];
    event.target.value = "";
    charts.show(shown);
  };
  charts.show(shown);
  const numbers = facts.columns.filter((column) => column.kind === "number");
  $("sort").replaceChildren(
    element("option", { value: "" }, "as they came"),
    element("option", { value: "hash(uid)" }, "at random"),
    ...numbers.flatMap(({ name }) => [
      element("option", { value: `${named(name)} ASC NULLS LAST` }, `${name}, lowest first`),
      element("option", { value: `${named(name)} DESC NULLS LAST` }, `${name}, highest first`),
    ]),
  );
  for (const id of ["sort", "fate"]) $(id).onchange = () => rows();
  let waiting;
  $("words").oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(rows, 200);
  };
  $("more-rows").onclick = () => rows(true);
  $("clear-brush").onclick = () => charts.clear();
  $("from-brush").onclick = ruleFromBrush;
  $("reset-rules").onclick = () => apply(facts.rules.map((rule) => ({ ...rule })));
  $("keep").hidden = !facts.edit;
  $("keep").onclick = askToKeep;
  $("copy-rules").onclick = () => copy(asYaml(), $("copy-rules"));
  $("copy-command").onclick = () => copy(asCommand(), $("copy-command"));
  $("add-rule").onsubmit = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    apply([...rules, { name: form.get("name").trim(), sql: form.get("sql").trim() }]).then((done) => {
      if (done) event.target.reset();
    });
  };
}

// -- rules ---------------------------------------------------------------------------------------

async function apply(changed) {
  try {
    const counts = await tryRules(changed, facts.missing);
    rules = changed.filter((rule) => rule.sql.trim());
    $("rule-error").textContent = "";
    counted(counts);
    await charts.refresh();
    await rows();
    return true;
  } catch (error) {
    $("rule-error").textContent = error.message;
    return false;
  }
}

function counted(counts) {
  const share = counts.rows ? ((100 * counts.kept) / counts.rows).toFixed(1) : "0";
  const changes = counts.changes ? `; ${count(counts.changes)} rows change` : "";
  $("counts").textContent =
    `${count(counts.kept)} of ${count(counts.rows)} rows kept (${share} %)${changes}${reading}`;
  $("rule-list").replaceChildren(
    ...counts.rules.map((rule, place) => {
      const input = element("input", { value: rule.sql, spellcheck: false, "ariaLabel": `SQL of ${rule.name}` });
      input.setAttribute("aria-label", `SQL of ${rule.name}`);
      input.onchange = () => apply(rules.with(place, { name: rule.name, sql: input.value }));
      const out = element("button", { type: "button", title: "Take the rule out" }, "Take out");
      out.setAttribute("aria-label", `Take out ${rule.name}`);
      out.onclick = () => apply(rules.filter((_, other) => other !== place));
      const others = rule.means - rule.drops;
      const means = others ? `true of ${count(rule.means)}; rules before it take ${count(others)}` : "";
      const resolved = rule.resolved === rule.sql ? "" : rule.resolved;
      return element(
        "li",
        {},
        element("div", { className: "rule-head" }, element("b", {}, rule.name), element("span", {}, `drops ${count(rule.drops)}`)),
        element("div", { className: "rule-sql" }, input, out),
        element("div", { className: "rule-means" }, [resolved, means].filter(Boolean).join("; ")),
      );
    }),
  );
  const reasons = [...new Set([...counts.rules.map((rule) => rule.name), ...Object.keys(counts.others)])];
  const chosen = $("fate").value;
  $("fate").replaceChildren(
    element("option", { value: "" }, "all"),
    element("option", { value: "fate = 'kept'" }, "kept"),
    element("option", { value: "fate = 'dropped'" }, "dropped"),
    element("option", { value: "changes" }, "those that change"),
    element("option", { value: "NOT entered" }, "dropped before the rules"),
    ...reasons.map((name) => element("option", { value: `now = ${quoted(name)}` }, `dropped: ${name}`)),
  );
  $("fate").value = chosen;
  if ($("fate").selectedIndex < 0) $("fate").value = "";
}

// Asked once more, as shards are replaced.
function askToKeep() {
  const button = element("button", { type: "button" }, "Write them");
  const says = element("p", {}, `Ledger, report and shards of ${facts.run} are made anew: ${$("counts").textContent}.`);
  button.onclick = async () => {
    button.disabled = true;
    says.textContent = "Writing; this takes as long as gristmill keep --shards.";
    try {
      await keep(rules, facts.missing);
      location.reload();
    } catch (error) {
      says.textContent = error.message;
      button.disabled = false;
    }
  };
  $("row-title").textContent = "Keep these rows?";
  $("row-body").replaceChildren(says, button);
  $("row").showModal();
}

function ruleFromBrush() {
  const form = $("add-rule");
  form.elements.sql.value = `NOT (${charts.predicate()})`;
  form.elements.name.value ||= "outside of the brush";
  form.elements.name.focus();
}

const asYaml = () =>
  ["rules:", ...rules.map((rule) => `  ${JSON.stringify(rule.name)}: ${JSON.stringify(rule.sql)}`), ""].join("\n");

function asCommand() {
  const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const before = new Map(facts.rules.map((rule) => [rule.name, rule.sql]));
  const now = new Map(rules.map((rule) => [rule.name, rule.sql]));
  const changed = rules.filter((rule) => before.get(rule.name) !== rule.sql);
  const gone = facts.rules.filter((rule) => !now.has(rule.name)).map((rule) => ({ name: rule.name, sql: "" }));
  const flags = [...changed, ...gone].map((rule) => ` --rule ${shell(`${rule.name}=${rule.sql}`)}`);
  return `gristmill keep ${shell(facts.run)}${flags.join("")}`;
}

async function copy(text, button) {
  const name = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    $("rule-error").textContent = text;
  }
  setTimeout(() => (button.textContent = name), 1500);
}

// -- rows ----------------------------------------------------------------------------------------

async function rows(more = false) {
  const mine = ++asked;
  offset = more ? offset + ROWS : 0;
  const words = $("words").value.trim();
  const parts = [charts.predicate(), $("fate").value].filter(Boolean).map((part) => `(${part})`);
  if (words) parts.push(`contains(lower(caption), lower(${quoted(words)}))`);
  const where = parts.length ? `WHERE ${parts.join(" AND ")}` : "";
  const sort = $("sort").value;
  const order = sort ? `ORDER BY ${sort}, uid` : "";
  const [[{ found }], page] = await Promise.all([
    charts.ask(`SELECT count(*) AS found FROM shown ${where}`),
    charts.ask(
      `SELECT uid, part, node, left(caption, 400) AS caption, now, fate, changes, reason FROM shown ${where} ${order} LIMIT ${ROWS} OFFSET ${offset}`,
    ),
  ]);
  if (mine !== asked) return;
  const cards = page.map(card);
  if (more) $("grid").append(...cards);
  else $("grid").replaceChildren(...cards);
  $("grid-says").textContent = `${count(found)} rows${found ? `, ${count(Math.min(found, offset + ROWS))} shown` : ""}`;
  $("more-rows").hidden = offset + ROWS >= found;
}

function card(row) {
  const picture = element("img", { src: pictureOf(row), alt: "", loading: "lazy", decoding: "async" });
  picture.onerror = () => picture.replaceWith(element("div", { className: "none" }, "no picture"));
  const button = element(
    "button",
    { type: "button", className: `row ${row.fate}${row.changes ? " changes" : ""}` },
    picture,
    element("p", { dir: "auto" }, said(row.caption ?? "no caption")),
    element("div", { className: "now" }, row.changes ? `${row.now} (was ${row.reason ?? "kept"})` : row.now),
  );
  button.onclick = () => open(row);
  return button;
}

async function open(row) {
  $("row-title").textContent = row.uid;
  const picture = element("img", { src: pictureOf(row, true), alt: row.caption ?? "" });
  picture.onerror = () => picture.remove();
  $("row-body").replaceChildren(picture, element("p", {}, "Reading its trace."));
  $("row").showModal();
  try {
    const traces = await trace(row.uid);
    $("row-body").replaceChildren(picture, ...traces.map(told));
  } catch (error) {
    $("row-body").replaceChildren(picture, element("p", { className: "error" }, error.message));
  }
}

function told(one) {
  const tables = Object.entries({ outcome: one.outcome, ...one.nodes }).map(([name, values]) =>
    element(
      "table",
      {},
      element("caption", {}, name),
      element(
        "tbody",
        {},
        ...Object.entries(values).map(([key, value]) =>
          element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, element("div", { dir: "auto" }, said(value)))),
        ),
      ),
    ),
  );
  const shard = one.shard ? element("p", {}, `in ${one.shard}`) : null;
  return element("div", {}, ...[shard, ...tables].filter(Boolean));
}

begin().catch((error) => {
  $("counts").textContent = error.message;
});
