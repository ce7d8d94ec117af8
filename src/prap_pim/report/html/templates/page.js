// What all pages share: dark and light, charts in the colours of the page, tables that sort and filter.
"use strict";
const page = (() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const redraws = [];  // what to draw again when the colours change

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  /** The colour that a variable of the style sheet has now, as rgb(...). */
  function color(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  /** Text of packed data: base64 of gzip. */
  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // dark and light -----------------------------------------------------------------------------------------------
  const toggle = document.getElementById("theme");
  const kept = "prap-pim-theme";  // the choice outlives the page, where the browser lets it
  try {
    root.dataset.theme = localStorage.getItem(kept) ?? "";
  } catch {}
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  function recolor() {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
    redraws.forEach((draw) => draw());
  }
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem(kept, root.dataset.theme);
    } catch {}
    recolor();
  });
  dark.addEventListener("change", recolor);
  matchMedia("(max-width: 40rem)").addEventListener("change", recolor);  // charts look otherwise on a narrow screen
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
  matchMedia("print").addEventListener("change", () => {  // paper is light, and not as wide as the screen
    recolor();
    document.querySelectorAll(".js-plotly-plot").forEach((each) => Plotly.Plots.resize(each));
  });

  // charts -------------------------------------------------------------------------------------------------------
  function drawChart(id, { data, layout }) {
    const ink = color("--ink");
    const axis = { gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--soft") };
    const width = document.getElementById(id).clientWidth;
    const narrow = width < 480;
    const { short = [], legend = 0 } = layout.meta ?? {};
    const spare = 20 * (Math.ceil(legend / 2) - Math.ceil(legend / Math.max(1, Math.floor(width / 190))));
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    Plotly.react(
      id,
      data.map((trace) => ({
        ...trace,
        ...(trace.marker && { marker: { line: { color: ink, width: 1 }, ...trace.marker } }),
        ...(trace.type === "heatmap" && { colorscale: [[0, color("--low")], [1, color("--high")]] }),
      })),
      {
        ...layout,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        height: layout.height - spare,
        margin: { ...layout.margin, t: layout.margin.t - spare },
        font: { color: ink, size: narrow ? 11 : 13, family: "system-ui, sans-serif" },
        hoverlabel: { ...layout.hoverlabel, bgcolor: color("--card"), bordercolor: ink, font: { color: ink } },
        shapes: layout.shapes?.map((shape) => ({ ...shape, line: { color: ink, ...shape.line } })),
        ...Object.fromEntries(axes.map((key) => [key, { ...layout[key], ...axis }])),
        ...(narrow && short.length && { yaxis: { ...layout.yaxis, ...axis, ticktext: short } }),
      },
      { responsive: true, displayModeBar: false },
    );
  }

  async function drawCharts() {
    const charts = read("chart-data");
    if (!charts.length) return;
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);  // runs at once: the page's policy knows it by its digest
    for (const chart of charts) {
      const choice = document.getElementById(chart.chooser || `${chart.id}-choice`);
      const shown = () => (choice ? chart.choices[choice.selectedIndex] : (chart.choices[0] ?? chart));
      const draw = () => drawChart(chart.id, shown());
      if (choice) {
        choice.closest(".controls").hidden = false;
        choice.addEventListener("change", draw);
      }
      draw();
      redraws.push(draw);
    }
  }

  // tables -------------------------------------------------------------------------------------------------------
  const cellValue = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value ?? cell.textContent.trim();
    return value !== "" && Number.isFinite(Number(value)) ? Number(value) : value;
  };
  function compare(a, b) {
    if (typeof a === typeof b && typeof a === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
        const order = next === undefined ? "ascending" : next;
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        if (order) heading.setAttribute("aria-sort", order);
        const sign = order === "descending" ? -1 : 1;
        const rows = order
          ? [...original].sort((a, b) => sign * compare(cellValue(a, column), cellValue(b, column)))
          : original;
        body.append(...rows);
      });
    });
  }

  /** Text as one types it: 589,824 as 589824, 8 × 8 as 8x8, µJ as uJ, mm² as mm2, − as -. */
  const typed = (text) =>
    text
      .toLowerCase()
      .replace(/(\d)[,\u202f](?=\d{3}(?!\d))/g, "$1")
      .replace(/(\d)[ \u00a0]*[×x][ \u00a0]*(?=\d)/g, "$1x")
      .replace(/[µμ²−]/g, (each) => ({ "²": "2", "−": "-" })[each] ?? "u");

  function filterable(controls) {
    const rows = [...document.getElementById(controls.dataset.table).tBodies[0].rows];
    const texts = new Map(rows.map((row) => [row, typed([...row.cells].map((cell) => cell.textContent).join("\n"))]));
    const search = controls.querySelector("input");
    const selects = [...controls.querySelectorAll("select")];
    const status = controls.querySelector("[role=status]");
    function apply() {
      const words = typed(search.value).split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !(
          words.every((word) => texts.get(row).includes(word)) &&
          selects.every(({ value, dataset }) => !value || row.cells[dataset.column].textContent.trim() === value)
        );
        shown += !row.hidden;
      }
      status.textContent = shown ? `${shown} of ${rows.length} rows` : `None of ${rows.length} rows matches.`;
    }
    controls.hidden = false;
    controls.addEventListener("input", apply);
    apply();
  }

  // regions that scroll ----------------------------------------------------------------------------------------
  /** Say by shadows on which sides of a region there is more to see. */
  function tellsMore(region) {
    const { classList } = region.parentElement;
    function tell() {
      const [right, below] = [
        region.scrollWidth - region.clientWidth - region.scrollLeft,
        region.scrollHeight - region.clientHeight - region.scrollTop,
      ];
      classList.toggle("more-left", region.scrollLeft > 1);
      classList.toggle("more-right", right > 1);
      classList.toggle("more-below", below > 1);
    }
    region.addEventListener("scroll", tell, { passive: true });
    const watch = new ResizeObserver(tell);
    [region, ...region.children].forEach((each) => watch.observe(each));
  }

  document.querySelectorAll(".more > *").forEach(tellsMore);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".controls[data-table]").forEach(filterable);
  recolor();
  const ready = drawCharts().catch((error) => {
    console.error(error);
    document.querySelectorAll(".no-charts").forEach((each) => (each.hidden = false));
  });
  return { color, read, unpack, redraws, ready };
})();
