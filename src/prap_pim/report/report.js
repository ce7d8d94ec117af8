// Draws the charts in the colours of the page, and again when it turns dark or light.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const config = { responsive: true, displayModeBar: false };

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const [ink, line, card] = ["--ink", "--line", "--card"].map(color);
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line };
    for (const { id, data, layout } of charts) {
      const outlined = data.map((trace) => ({
        ...trace,
        marker: { ...trace.marker, line: { color: ink, width: 1 } },
      }));
      Plotly.react(
        id,
        outlined,
        {
          ...layout,
          paper_bgcolor: "rgba(0,0,0,0)",
          plot_bgcolor: "rgba(0,0,0,0)",
          font: { color: ink, size: 13, family: "system-ui, sans-serif" },
          hoverlabel: { ...layout.hoverlabel, bgcolor: card, bordercolor: ink, font: { color: ink } },
          xaxis: { ...layout.xaxis, ...axis },
          yaxis: { ...layout.yaxis, ...axis },
        },
        config,
      );
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
