// The reuse map: a cell for every filter and row group; one row group and its donors in words beside it.
"use strict";
(async () => {
  const root = document.getElementById("reuse-map");
  if (!root) return;
  const maps = JSON.parse(await page.unpack("reuse-data"));
  const find = (name) => root.querySelector(`[data-part=${name}]`);
  const [method, layer, group] = ["method", "layer", "group"].map(find);
  const [frame, canvas] = [find("frame"), find("canvas")];
  const paint = canvas.getContext("2d");
  let map, sharers, size, at;  // at: {group, filter}, counted among those shown

  const [gutter, head] = [40, 18];  // pixels for the numbers of row groups and filters
  const mostSharers = () => Math.max(2, ...sharers.flatMap((times) => [...times.values()]));
  const strength = (times, most) => 0.25 + 0.75 * (Math.log(times) / Math.log(most));
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });

  function chooseMethod() {
    const wanted = layer.selectedOptions[0]?.textContent;
    const of = maps.filter((each) => each.method === method.value);
    layer.replaceChildren(...of.map((each) => option(each.layer, maps.indexOf(each))));
    const same = of.findIndex((each) => each.layer === wanted);
    const most = of.map(sharing).reduce((best, value, i, all) => (value > all[best] ? i : best), 0);
    layer.selectedIndex = same >= 0 ? same : most;
    chooseLayer();
  }

  /** Uses for each donor in what is shown: the layer that shares most is shown first. */
  function sharing({ uses }) {
    const used = uses.flat().filter(Boolean).length;
    const donors = uses.reduce((sum, row) => sum + new Set(row.filter(Boolean).map(([donor]) => donor)).size, 0);
    return donors ? used / donors : 0;
  }

  function chooseLayer() {
    map = maps[Number(layer.value)];
    sharers = map.uses.map((row) => {
      const times = new Map();
      for (const use of row) if (use) times.set(use[0], (times.get(use[0]) ?? 0) + 1);
      return times;
    });
    find("summary").textContent = `${map.summary}.`;
    find("part").textContent = map.part ? `Shown: ${map.part}. The sums are of the whole layer.` : "";
    find("gains").replaceChildren(
      ...map.gains.map((row) => {
        const tr = document.createElement("tr");
        tr.append(...row.map((text, i) => Object.assign(cell(i ? "td" : "th", text), { className: i ? "num" : "" })));
        tr.firstChild.scope = "row";
        return tr;
      }),
    );
    group.replaceChildren(...map.groups.map((number, i) => option(`${number}`, i)));
    const most = mostSharers();
    find("legend").replaceChildren(
      ...[...new Set([1, 2, Math.round(Math.sqrt(2 * most)), most])].map((times) => {
        const item = document.createElement("span");
        const square = document.createElement("i");
        if (times > 1) {
          square.className = "shared";
          square.style.opacity = strength(times, most);
        }
        item.append(square, times === 1 ? "one filter alone" : `${times} filters share a donor`);
        return item;
      }),
    );
    const first = sharers.findIndex((times) => [...times.values()].includes(most));  // begin where most is shared
    const place = { group: Math.max(0, first), filter: 0 };
    place.filter = Math.max(0, map.uses[place.group]?.findIndex((use) => use && sharers[place.group].get(use[0]) === most) ?? 0);
    at = place;
    draw();
    tell();
  }

  function draw() {
    const width = Math.max(200, frame.clientWidth - gutter - 2);
    size = Math.max(8, Math.min(24, Math.floor(width / map.filters)));
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [gutter + map.filters * size + 2, head + map.groups.length * size + 2];
    Object.assign(canvas, { width: w * scale, height: h * scale });
    Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
    const [high, soft, ink, accent, quiet] = ["--high", "--soft", "--ink", "--accent", "--quiet"].map(page.color);
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, w, h);
    paint.fillStyle = soft;
    paint.font = "11px system-ui, sans-serif";
    paint.textBaseline = "middle";
    paint.textAlign = "right";
    const every = Math.ceil(13 / size);
    map.groups.forEach((number, y) => y % every || paint.fillText(number, gutter - 6, head + (y + 0.5) * size));
    paint.textAlign = "center";
    for (let x = 0; x < map.filters; x += 8 * Math.ceil(4 / size)) paint.fillText(x, gutter + (x + 0.5) * size, 8);
    paint.setTransform(scale, 0, 0, scale, gutter * scale, head * scale);
    const most = mostSharers();
    const inside = size - 1;
    map.uses.forEach((row, y) =>
      row.forEach((use, x) => {
        paint.fillStyle = quiet;
        paint.fillRect(x * size, y * size, inside, inside);
        if (!use) return;
        const times = sharers[y].get(use[0]);
        if (times === 1) {  // hollow: nobody shares this donor
          paint.strokeStyle = soft;
          paint.lineWidth = 1;
          paint.strokeRect(x * size + 1.5, y * size + 1.5, inside - 3, inside - 3);
        } else {
          paint.globalAlpha = strength(times, most);
          paint.fillStyle = high;
          paint.fillRect(x * size, y * size, inside, inside);
          paint.globalAlpha = 1;
        }
      }),
    );
    const here = map.uses[at.group]?.[at.filter];
    paint.lineWidth = 2;
    paint.strokeStyle = accent;
    if (here) {
      map.uses[at.group].forEach((use, x) => {
        if (use && use[0] === here[0]) paint.strokeRect(x * size, at.group * size, inside, inside);
      });
    }
    paint.lineWidth = 3;
    paint.strokeStyle = ink;
    paint.strokeRect(at.filter * size - 1, at.group * size - 1, size + 1, size + 1);
  }

  /** Say what is at the chosen place, and list the donors of its row group. */
  function tell() {
    group.selectedIndex = at.group;
    const row = map.uses[at.group] ?? [];
    const number = map.groups[at.group];
    const here = row[at.filter];
    find("told").textContent = here
      ? `Row group ${number}, filter ${at.filter}: ${map.gain_names[here[1]]} times donor ${here[0]}, ` +
        (sharers[at.group].get(here[0]) === 1 ? "which no other filter uses." : `which ${sharers[at.group].get(here[0])} filters use.`)
      : `Row group ${number}, filter ${at.filter}: no pattern.`;
    const donors = new Map();
    row.forEach((use, filter) => {
      if (!use) return;
      if (!donors.has(use[0])) donors.set(use[0], []);
      donors.get(use[0]).push(`${filter} (${map.gain_names[use[1]]})`);
    });
    find("donors").replaceChildren(
      ...[...donors].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]).map(([donor, filters]) => {
        const tr = document.createElement("tr");
        tr.append(
          Object.assign(cell("th", `donor ${donor}`), { scope: "row", className: "nowrap" }),
          Object.assign(cell("td", filters.length), { className: "num" }),
          cell("td", filters.join(", ")),
        );
        if (here && here[0] === donor) tr.className = "chosen";
        return tr;
      }),
    );
  }

  function move(to) {
    at = {
      group: Math.max(0, Math.min(map.groups.length - 1, to.group)),
      filter: Math.max(0, Math.min(map.filters - 1, to.filter)),
    };
    draw();
    tell();
    const left = gutter + at.filter * size;  // keep the chosen cell in sight
    frame.scrollLeft = Math.max(Math.min(frame.scrollLeft, left - size), left + 2 * size - frame.clientWidth);
  }

  const steps = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
    Home: [0, -Infinity], End: [0, Infinity], PageUp: [-Infinity, 0], PageDown: [Infinity, 0],
  };
  frame.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move({ group: at.group + step[0], filter: at.filter + step[1] });
  });
  canvas.addEventListener("click", (event) => {
    const place = canvas.getBoundingClientRect();
    move({
      group: Math.floor((event.clientY - place.top - head) / size),
      filter: Math.floor((event.clientX - place.left - gutter) / size),
    });
  });
  method.addEventListener("change", chooseMethod);
  layer.addEventListener("change", chooseLayer);
  group.addEventListener("change", () => move({ ...at, group: group.selectedIndex }));

  const names = [...new Set(maps.map((each) => each.method))];
  method.replaceChildren(...names.map((name) => option(name, name)));
  method.selectedIndex = names.length - 1;
  root.hidden = false;
  chooseMethod();
  page.redraws.push(draw);
  new ResizeObserver(draw).observe(frame);
})();
