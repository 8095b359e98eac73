// Charts of scores, all brushed together: Mosaic asks the server's database for what each draws.
import { clausePoint, makeClient } from "@uwdata/mosaic-core";
import { desc } from "@uwdata/mosaic-sql";
import * as vg from "@uwdata/vgplot";
import { count, element } from "./elements.js";

const TABLE = "shown";
const MOST = 8;
const WIDE = 280;

export class Charts {
  constructor(place) {
    this.place = place;
    this.coordinator = vg.coordinator();
    this.coordinator.databaseConnector(vg.restConnector({ uri: new URL("api/query", document.baseURI).href }));
    this.coordinator.logger(null);
    this.brush = vg.Selection.crossfilter();
    this.clients = [];
  }

  // Number columns as histograms, all others as lists of their most frequent values.
  show(columns) {
    for (const client of this.clients) this.coordinator.disconnect(client);
    this.clients = [];
    this.brush.reset();
    this.place.replaceChildren(...columns.map((column) => this.#chart(column)));
  }

  #chart(column) {
    const drawn = column.kind === "number" ? this.#histogram(column) : this.#list(column);
    return element(
      "div",
      { className: "chart" },
      element("h3", {}, column.name),
      element("p", { title: column.says }, column.says),
      drawn,
    );
  }

  #histogram(column) {
    const style = getComputedStyle(document.documentElement);
    const colours = ["--kept", "--dropped"].map((name) => style.getPropertyValue(name));
    const plot = vg.plot(
      vg.rectY(vg.from(TABLE, { filterBy: this.brush }), {
        x: vg.bin(column.name, { steps: 40 }),
        y: vg.count(),
        fill: "fate",
        inset: 0.5,
      }),
      vg.intervalX({ as: this.brush }),
      vg.colorDomain(["kept", "dropped"]),
      vg.colorRange(this.#resolved(colours)),
      vg.xLabel(null),
      vg.yLabel(null),
      vg.yTickFormat("s"),
      vg.yTicks(3),
      vg.xTicks(5),
      vg.width(WIDE),
      vg.height(110),
      vg.margins({ left: 38, right: 8, top: 6, bottom: 20 }),
    );
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `Histogram of ${column.name}, kept and dropped; drag to choose a range`);
    this.clients.push(...plot.value.marks);
    return plot;
  }

  // light-dark() is not understood by what draws: the browser says what it comes to.
  #resolved(colours) {
    const probe = element("span");
    document.body.append(probe);
    const found = colours.map((colour) => {
      probe.style.color = colour;
      return getComputedStyle(probe).color;
    });
    probe.remove();
    return found;
  }

  #list(column) {
    const place = element("div");
    const client = makeClient({
      coordinator: this.coordinator,
      selection: this.brush,
      filterStable: false,
      // `held`, as the table has a column `value`.
      query: (filter) =>
        vg.Query.from(TABLE)
          .select({ held: vg.cast(vg.column(column.name), "VARCHAR"), rows: vg.count() })
          .where(filter)
          .groupby("held")
          .orderby(desc("rows"))
          .limit(MOST),
      queryResult: (found) => {
        place.replaceChildren(
          ...[...found].map(({ held: value, rows }) => {
            const name = value === null ? "no value" : value === "" ? "empty" : value;
            const button = element("button", { type: "button" }, element("span", {}, name), element("span", {}, count(rows)));
            const chosen = this.chosen?.get(column.name) === value;
            button.setAttribute("aria-pressed", String(chosen));
            button.onclick = () => this.#choose(client, column, chosen ? undefined : value);
            return button;
          }),
        );
      },
    });
    this.clients.push(client);
    return place;
  }

  #choose(client, column, value) {
    this.chosen ??= new Map();
    if (value === undefined) this.chosen.delete(column.name);
    else this.chosen.set(column.name, value);
    this.brush.update(
      clausePoint(vg.cast(vg.column(column.name), "VARCHAR"), value, { source: client, clients: new Set([client]) }),
    );
    client.requestQuery();
  }

  // SQL of what is brushed, "" for nothing.
  predicate() {
    const clauses = this.brush.clauses.map((clause) => clause.predicate).filter(Boolean);
    return clauses.map((clause) => `(${clause})`).join(" AND ");
  }

  // The row table's own client: asked again whenever the brush changes.
  watch(listener) {
    this.brush.addEventListener("value", listener);
  }

  clear() {
    this.chosen?.clear();
    this.brush.reset();
    for (const client of this.clients) client.requestQuery?.();
  }

  // The rules changed what the table says: what was aggregated before is of before.
  async refresh() {
    await this.coordinator.preaggregator.dropSchema();
    this.coordinator.clear({ clients: false });
    await Promise.all(this.clients.map((client) => client.requestQuery?.()));
  }

  ask(sql) {
    return this.coordinator.query(sql, { type: "json", cache: false });
  }
}
